"""Weights of backbones."""
