"""The search for the way of training: what is tried, in which order, and what came of it."""
