"""Train a judge on preference pairs (eq. 3 of OneReward) and report on it."""
