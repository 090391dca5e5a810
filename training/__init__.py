"""Training scripts and loops."""
