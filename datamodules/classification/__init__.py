"""Whole images with labels: folders of classes, and tables."""
