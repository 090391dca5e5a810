"""Nodes around ComfyUI's own samplers, loaders and models."""
