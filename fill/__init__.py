"""The generation engine: mask-guided editing with FLUX.1-Fill models, without ComfyUI and without training."""
