"""The labelling page on the server of ComfyUI."""
