"""Callbacks for the files of a run and its course: checkpoints, merged models, summary, audit, progress."""
