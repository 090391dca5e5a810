"""The reward model: one vision-language judge of image pairs for every task and dimension."""
