"""The rooms of the command line: configuration, runs, trainer, inspection, messages, log."""
