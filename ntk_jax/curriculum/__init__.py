"""How long the rows are, what stands in them, and which tokens count."""
