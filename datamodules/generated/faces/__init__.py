"""Faces and morphs of them."""
