"""Labelling by hand: whose turn it is, what people have answered, and how far they agree."""
