"""Strips of steel with defects."""
