"""The judge made of a local vision-language model in transformers format."""
