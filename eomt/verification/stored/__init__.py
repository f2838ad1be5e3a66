"""The audit of files: what is in an adapter or a checkpoint, and what is wrong with it, without a network."""
