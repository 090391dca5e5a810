"""Looking at a run while it trains: held-out edits, drift, the board, TensorBoard."""
