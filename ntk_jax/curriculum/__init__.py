"""Growing length: when rows get longer, and what tokens of them see."""
