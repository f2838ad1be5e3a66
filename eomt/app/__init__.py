"""The parts of the command line: configuration, checks, runs, trainer, inspection, messages, log."""
