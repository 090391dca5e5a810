"""From noise to latents: schedules, guidance, the sampler, latents and prompt encoding."""
