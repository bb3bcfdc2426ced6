"""The one exception that bad input raises."""


class InputError(ValueError):
    """Input that cannot be used.

    The message is one line: what is wrong, where, and what would be right. The command line prints it on
    stderr and exits with status 2; a library caller catches it as a ``ValueError``.
    """
