"""A judge that runs on a server: the OpenAI-compatible API with log-probabilities."""
