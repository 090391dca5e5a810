"""Measuring an exported model, and the card that says what was measured."""
