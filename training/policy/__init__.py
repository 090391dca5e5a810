"""The parts of policy training; the algorithm itself is `training/policy/loop.py`."""
