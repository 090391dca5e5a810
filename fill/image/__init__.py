"""Masks, crop boxes, canvases, stitching and colour: the geometry of an edit."""
