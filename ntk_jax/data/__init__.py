"""Text, and the retrieval rows that are made from it."""
