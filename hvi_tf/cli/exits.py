"""The start and the end of every command: flags, help, errors, signals and exit codes."""

import contextlib
import io
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TextIO, TypeVar

from absl import app, flags, logging

from hvi_tf.cli import flagfiles
from hvi_tf.cli import help as help_page
from hvi_tf.errors import UserError, first_line, one_line
from hvi_tf.runtime.interrupts import Interrupted

FLAGS = flags.FLAGS
Result = TypeVar("Result")

flags.DEFINE_boolean(
    "debug", False, "Prints the traceback of an error, and the start messages of TensorFlow."
)

_SMALLER = "give a smaller --batch_size, --K, --M or --L, or smaller networks"


def start(main: Callable[[list[str]], None], doc: str | None) -> None:
    """Runs `main` on the flags of this process; `doc` is the description of --help."""
    open_streams()
    app.run(main, flags_parser=flags_parser(doc, main.__module__))


def again(module: str) -> str:
    """Returns the command that runs this process again, as `python -m module`."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def open_streams() -> None:
    """Opens the null device in place of each standard stream that is closed.

    Otherwise a file that is opened later gets the number of the stream, and all output that a
    library prints goes into the file. A character that standard output cannot show becomes "?".
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: the stream's
            os.set_inheritable(null, True)
            setattr(sys, name, open(null, mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def silence_stdout() -> None:
    """Sends the standard output of this process to the null device."""
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def flags_parser(doc: str | None, module: str) -> Callable[[list[str]], list[str]]:
    """Returns a parser for `app.run` that prints one line for a mistake.

    Args:
        doc: description of --help.
        module: name of the module whose flags --help lists.
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            _print_help(argv, doc, module)
            argv = flagfiles.expand(argv)
            _print_help(argv, doc, module)
            return FLAGS(argv)
        except (flags.Error, ValueError, RecursionError) as error:
            # Flagfiles and the flags of absl raise the last two.
            text = " ".join(str(error).replace("ERROR:: ", "").split())
            text = re.sub(
                r"flag (\S+): (invalid literal|could not convert).*", r"\1: must be a number", text
            )
            text = re.sub(r"flag (\S+): Exceeds the limit.*", r"\1: has too many digits", text)
            raise UserError(text) from error

    return lambda argv: run(lambda: parse(argv), lambda: shlex.join(argv))


def _print_help(argv: list[str], doc: str | None, module: str) -> None:
    """Prints the help text and exits with 0, if a flag requests it."""
    kind = help_page.requested(argv[1:])
    if not kind:
        return
    name = sys.argv[0] if module == "__main__" else module  # as absl names the main module
    try:
        print(help_page.text(kind, doc, name), end="", flush=True)
    except BrokenPipeError:  # a reader such as `head` may close the pipe early
        _discard_unwritten(sys.stdout)
    sys.exit(0)


def run(command: Callable[[], Result], same_command: Callable[[], str]) -> Result:
    """Runs a command, and exits with one line and status 2 for an error that the user can mend.

    Any other error is a defect of this program: the command prints one line and exits with
    status 1. After an interruption it exits with 128 and the number of the signal, as in a shell.

    Args:
        command: the command.
        same_command: returns the command line that resumes after an interruption.

    Returns:
        The value of `command`.
    """
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TFDS logs every step at INFO
    try:
        result = command()
        sys.stdout.flush()  # a failure is still reported here
        return result
    except (Interrupted, KeyboardInterrupt) as stop:
        sys.exit(_print_interruption(stop, same_command))
    except BrokenPipeError:
        _print_error(f"output pipe closed; to resume: {same_command()}")
        sys.exit(2)
    except Exception as error:
        line, status = _line_of(error)
        _print_error(line)
        sys.exit(status)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _discard_unwritten(stream)


def _print_interruption(stop: BaseException, same_command: Callable[[], str]) -> int:
    """Prints how to resume, and returns the exit status."""
    # A second Ctrl-C does not wait for the checkpoint that the first one requested.
    saved = "nothing is lost" if isinstance(stop, Interrupted) else "saved files remain"
    with contextlib.suppress(OSError):  # Ctrl-C may also have ended the reader of the output
        print(f"\nInterrupted; {saved}. To resume:\n  {same_command()}", flush=True)
    return 128 + (stop.signal if isinstance(stop, Interrupted) else signal.SIGINT)


def _line_of(error: Exception) -> tuple[str, int]:
    """Returns the line and the exit status for an error."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, OSError):  # of a disk, or of standard output
        hint = "" if error.filename else "; standard output may be full or closed"
        return f"{error}{hint}", 2
    kind = type(error).__name__
    if isinstance(error, Warning):  # only a filter of warnings raises one
        return f"python -W or PYTHONWARNINGS turns a warning into an error: {kind}: {error}", 2
    if isinstance(error, MemoryError):
        return f"out of memory ({error}); {_SMALLER}", 2
    reason = first_line(error)
    if kind == "ResourceExhaustedError":  # by name, because TensorFlow may not be imported
        return f"out of memory ({reason}); {_SMALLER}", 2
    return f"a defect of this program ({kind}: {reason}); --debug prints the traceback", 1


def _discard_unwritten(stream: TextIO) -> None:
    """Sends unwritten text to the null device; otherwise Python tries again and exits with 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print_error(line: str) -> None:
    """Prints one line for the exception that is being handled."""
    with contextlib.suppress(OSError):  # standard error may also be closed
        if FLAGS["debug"].value:  # the default if the flags themselves are wrong
            traceback.print_exc()
        print(f"error: {one_line(flagfiles.place(line) + line)}", file=sys.stderr)
