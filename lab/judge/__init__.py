"""How the bundled toy judge is made, and how robust it is."""
