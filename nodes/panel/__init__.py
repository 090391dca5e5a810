"""The training panel on the server of ComfyUI."""
