"""What a node checks of its inputs, and how its errors read."""
