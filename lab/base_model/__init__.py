"""Make the bundled base model from a seed and config files: VAE, transformer, text encoders."""
