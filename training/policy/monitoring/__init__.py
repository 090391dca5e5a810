"""Evaluation of a policy run on held-out edits, and drift of its images."""
