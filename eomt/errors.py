"""Errors that a user can mend."""


class UserError(ValueError):
    """A mistake in a file, a field or a command line.

    The message is one line: the file or field, what was found, what would do. The command line prints it
    without a traceback and exits with status 2.
    """
