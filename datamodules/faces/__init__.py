"""Faces, and morphs among them."""
