"""Evaluation at length: loss by position, retrieval by depth, intervals."""
