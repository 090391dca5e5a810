"""The generation engine: mask-guided editing with FLUX.1-Fill models; knows no ComfyUI."""
