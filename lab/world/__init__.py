"""Procedural toy world: scenes, conditions, masks and measurements; imports no product code."""
