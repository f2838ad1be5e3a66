"""Trained models for others: a folder that opens anywhere, with a model card, and its way to the hub."""
