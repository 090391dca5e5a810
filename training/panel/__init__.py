"""The training panel: a page that shows runs as they learn, from the files in their folders."""
