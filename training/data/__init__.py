"""Data sets: edits to train on, generated candidates, labels and preferences."""
