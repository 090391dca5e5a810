"""What sits where: the memory plan, streamed blocks, and separately placed components."""
