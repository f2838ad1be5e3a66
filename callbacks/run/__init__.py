"""A run's folder: checkpoints, merged models, summary, audit, progress."""
