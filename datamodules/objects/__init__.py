"""Images with objects: each has a mask and a class of its own."""
