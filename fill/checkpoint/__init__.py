"""Single files as ComfyUI users have them: identified, checked, read, kept quantised in memory."""
