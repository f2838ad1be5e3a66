"""Weights of EoMT."""
