"""Cells under a microscope, round and touching."""
