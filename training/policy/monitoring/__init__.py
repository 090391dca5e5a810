"""Watching a policy run: evaluation on held-out edits, and drift."""
