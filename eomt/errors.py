"""The error for mistakes that a user can correct."""


class UserError(ValueError):
    """A mistake in a file, a field or a command line.

    Its message is one line: the file or field, what was found there, and what would do instead. The command line prints
    it without a traceback and exits with status 2.
    """
