"""Charts, contact sheets and tables."""
