"""Growing length: when, by how much, and on which rows."""
