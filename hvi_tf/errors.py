"""The one exception that the command line turns into one line and exit status 2."""


class UserError(Exception):
    """Something the user can mend: a flag, a file, a disk, a diverged run.

    The message is one line. It names the flag or file, quotes the offending value and
    says what would do.
    """


def first_line(error: BaseException) -> str:
    """What an exception says, on one line; its type if it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
