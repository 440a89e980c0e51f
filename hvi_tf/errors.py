"""The exception that a command turns into one line and exit status 2."""

import re

_MAX_WORD = 300  # characters of a value in a message
_MAX_LINE = 4_000


class UserError(Exception):
    """An error that the user can mend: a flag, a file, a disk, a diverged run.

    The message is one line. It names the flag or file, quotes the wrong value and proposes a
    remedy.
    """


class KerasError(UserError, ValueError):
    """Settings of Keras with which this package cannot compute."""


def first_line(error: BaseException) -> str:
    """Returns the first line of the message of an exception; its type if the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def one_line(text: str) -> str:
    """Returns a message on one line, with long values shortened and unprintable ones escaped."""

    def shorten(word: re.Match[str]) -> str:
        return f"{word[0][:100]}...{word[0][-20:]} ({len(word[0])} characters)"

    shown = re.sub(rf"\S{{{_MAX_WORD + 1},}}", shorten, " ".join(re.split("[\r\n]+", text)))
    shown = shown if len(shown) <= _MAX_LINE else f"{shown[:_MAX_LINE]}..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
