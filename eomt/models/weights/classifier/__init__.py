"""Weights of image classifiers, in and out, in the layout of transformers' classes."""
