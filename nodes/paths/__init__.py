"""Folders and files of models, inputs and results below ComfyUI's directories."""
