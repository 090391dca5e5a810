"""How the judges of others are asked and read: one JSON card each."""
