"""Research on the bundled models: the control, the bundled adapters, what they are worth."""
