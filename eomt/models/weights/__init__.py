"""Weights in and out, in the layouts of timm, transformers and the authors of the networks."""
