"""The pairs that the toy judge learns from."""
