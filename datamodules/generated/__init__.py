"""Worlds drawn on the spot, for the quickstarts."""
