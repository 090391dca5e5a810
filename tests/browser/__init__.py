"""A package, so that the browser is closed after the last test."""
