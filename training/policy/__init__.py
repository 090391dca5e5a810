"""Train a fill model by a judge; the algorithm itself is `training/policy/loop.py`."""
