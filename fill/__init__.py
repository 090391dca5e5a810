"""The generation engine: inpainting, outpainting, object removal with FLUX.1 Fill."""
