"""Procedural world: scenes, conditions and the oracle that judges them; imports nothing of ours."""
