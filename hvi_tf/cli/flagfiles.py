"""A reader of flagfiles that names the file and the line of a mistake, which absl does not."""

import os
import pathlib
import re
from typing import NamedTuple

from absl import flags

from hvi_tf.storage import files

_MAX_BYTES = 2**20  # of a flagfile
_MAX_FILES = 100  # of a command; a file counts as often as it is named


class _Argument(NamedTuple):
    text: str
    place: str = ""  # "FILE, line N"; empty on the command line itself

    @property
    def name(self) -> str:
        return self.text.lstrip("-").partition("=")[0]


_arguments: list[_Argument] = []  # of this process, in order


def expand(argv: list[str]) -> list[str]:
    """Returns the arguments of a command with each `--flagfile` replaced by its content.

    A line of a flagfile is a flag, possibly another `--flagfile=OTHER`, or begins with # or //.

    Raises:
        flags.Error: if a flagfile cannot be read; the message names the file and the line.
    """
    _arguments.clear()
    budget = [_MAX_FILES]
    rest = argv[1:]
    while rest:
        text, *rest = rest
        if text == "--":
            _arguments.extend(map(_Argument, [text, *rest]))
            break
        if text in _FLAG:
            if not rest:
                raise flags.Error(f"{text} with no argument")
            text, *rest = f"{text}={rest[0]}", *rest[1:]
        if text.startswith(_DIRECTIVES):
            _arguments.extend(_read(_file_of(text), budget))
        else:
            _arguments.append(_Argument(text))
    return [*argv[:1], *(argument.text for argument in _arguments)]


def place(message: str) -> str:
    """Returns "FILE, line N: " if the argument in a message comes from a flagfile, else "".

    Args:
        message: an error message that begins with an argument or a flag name.
    """
    flag = re.match(r"(?:flag )?--?(\w+)|Unknown command line flag '([^']*)'", message)
    name = (flag[1] or flag[2]) if flag else None
    own = [a for a in _arguments if a.name in (name, f"no{name}")]
    stray = [a for a in _arguments if message.startswith(f"{a.text}: ")]
    quoted = [a for a in own if a.text in message]
    about = (stray or quoted or own or [_Argument("")])[-1]
    return f"{about.place}: " if about.place else ""


_FLAG = ("--flagfile", "-flagfile")
_DIRECTIVES = tuple(f"{flag}=" for flag in _FLAG)


def _file_of(directive: str) -> str:
    """Returns the path in `--flagfile=PATH`."""
    return os.path.expanduser(directive.partition("=")[2].strip())


def _read(name: str, budget: list[int]) -> list[_Argument]:
    """Returns the arguments of a flagfile and of those it names; none for an empty name."""
    if not name:
        return []
    budget[0] -= 1
    if budget[0] < 0:
        raise flags.Error(f"more than {_MAX_FILES} flagfiles; {name} may lead back to itself")
    arguments = []
    for number, line in enumerate(_lines(name), start=1):
        text, where = line.strip(), f"{name}, line {number}"
        if not text or text.startswith(("#", "//")):
            continue
        if text in _FLAG:
            raise flags.Error(f"{where}: {text} with no argument; write it like {text}=FILE")
        if text.startswith(_DIRECTIVES):
            arguments += _read(_file_of(text), budget)
        else:
            arguments.append(_Argument(text, where))
    return arguments


def _lines(name: str) -> list[str]:
    """Returns the lines of a flagfile."""
    try:
        content = files.read_bytes(pathlib.Path(name), _MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise flags.Error(f"--flagfile={name}: cannot be read ({reason})") from error
    try:
        return content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise flags.Error(
            f"{name}, line {line}: not UTF-8 text (byte 0x{content[error.start]:02x}); save the "
            "file as UTF-8"
        ) from error
