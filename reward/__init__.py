"""The reward model: one vision-language judge of picture pairs for every task and dimension."""
