"""The laboratory: makes and studies the bundled toy models. Not part of the package."""
