"""Shapes on a ground, and questions about them."""
