"""Weights of SAM 2."""
