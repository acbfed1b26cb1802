"""The one exception that a user is meant to see."""


class CoopNetError(Exception):
    """Something the user can mend: the message names the thing and the remedy, in one line.

    The command line prints it without a traceback and exits with 1. Every other exception is a bug.
    """
