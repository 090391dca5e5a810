"""Make the bundled judge: first it learns to see, then to compare."""
