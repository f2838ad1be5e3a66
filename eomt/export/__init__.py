"""Trained networks as graphs that run without this package's networks, and what runs them."""
