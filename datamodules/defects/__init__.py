"""Images with defects of several classes."""
