"""Trained models as a function of images; `eomt.load` returns one of these."""
