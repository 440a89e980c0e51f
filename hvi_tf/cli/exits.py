"""What the commands share: how flags are parsed, and how a mistake or a Ctrl-C ends them."""

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
from hvi_tf.errors import UserError, first_line, one_line
from hvi_tf.runtime.interrupts import Interrupted

FLAGS = flags.FLAGS
Result = TypeVar("Result")

flags.DEFINE_boolean("debug", False, "Shows where in the program an error arose.")


def start(main: Callable[[list[str]], None], doc: str | None) -> None:
    """Runs `main` on the flags of this process; `doc` stands above the flags of --help."""
    open_streams()
    app.run(main, flags_parser=flags_parser(doc))


def again(module: str) -> str:
    """Returns the command that runs this process, `python -m module`, again."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def open_streams() -> None:
    """Opens the null device in place of each standard stream that is closed.

    Otherwise a file that is opened later gets the number of that stream, and whatever a
    library prints goes into the file. A character that standard output cannot show becomes "?".
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: the stream's
            os.set_inheritable(null, True)
            setattr(sys, name, open(null, mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def flags_parser(doc: str | None) -> Callable[[list[str]], list[str]]:
    """A parser for `app.run`: `doc` above the flags for --help, one line for a mistake."""

    def parse(argv: list[str]) -> list[str]:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                if {"--help", "-help", "-h", "-?"} & set(argv[1:]):
                    print(f"{doc}\nflags:\n{FLAGS.main_module_help()}")
                    sys.exit()
                return FLAGS(flagfiles.expand(argv))
        except SystemExit:  # A help flag has printed; absl's own exit with 1.
            _print_help(printed.getvalue())
            sys.exit(0)
        except (flags.Error, ValueError, RecursionError) as error:
            # The last two are of flagfiles, and of flags of absl's own.
            text = " ".join(str(error).replace("ERROR:: ", "").split())
            text = re.sub(
                r"flag (\S+): (invalid literal|could not convert).*", r"\1: must be a number", text
            )
            text = re.sub(r"flag (\S+): Exceeds the limit.*", r"\1: has too many digits", text)
            raise UserError(text) from error

    return lambda argv: run(lambda: parse(argv), lambda: shlex.join(argv))


def _print_help(text: str) -> None:
    """Prints a help text; a reader such as `head` may close the pipe early."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        _let_go_of(sys.stdout)


def run(command: Callable[[], Result], same_command: Callable[[], str]) -> Result:
    """Runs a command; one line and exit status 2 for anything the user can mend.

    Anything else is a defect of this program: one line too, and exit status 1. An interruption
    ends with 128 and the signal's number, as in a shell.

    Args:
        command: what to run.
        same_command: returns the command that goes on after an interruption.

    Returns:
        The value of `command`.
    """
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TFDS narrates at INFO
    try:
        result = command()
        sys.stdout.flush()  # here, where a failure is still an error
        return result
    except UserError as error:
        _tell(str(error))
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt) as stop:
        # A second Ctrl-C does not wait for the checkpoint that the first one asked for.
        kept = "nothing is lost" if isinstance(stop, Interrupted) else "what has been saved stays"
        with contextlib.suppress(OSError):  # Ctrl-C may have ended what reads this, too
            print(f"\nInterrupted; {kept}. To go on:\n  {same_command()}", flush=True)
        number = stop.signal if isinstance(stop, Interrupted) else signal.SIGINT
        sys.exit(128 + number)
    except BrokenPipeError:
        _tell(f"output pipe closed; to resume: {same_command()}")
        sys.exit(2)
    except OSError as error:  # of a disk, or of standard output
        _tell(str(error) if error.filename else f"{error}; standard output may be full or closed")
        sys.exit(2)
    except Warning as error:  # Only filters of warnings raise one.
        kind = type(error).__name__
        _tell(f"python -W or PYTHONWARNINGS turns a warning into an error: {kind}: {error}")
        sys.exit(2)
    except MemoryError as error:
        _tell(f"out of memory ({error}); {_LESS}")
        sys.exit(2)
    except Exception as error:
        reason = first_line(error)
        if type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's, which may not be here
            _tell(f"out of memory ({reason}); {_LESS}")
            sys.exit(2)
        _tell(f"a defect of this program ({type(error).__name__}: {reason}); --debug shows where")
        sys.exit(1)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _let_go_of(stream)


def _let_go_of(stream: TextIO) -> None:
    """Sends what cannot be written to the null device, or Python tries again and exits with 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_LESS = "give a smaller --batch_size, --K, --M or --L, or smaller networks"


def _tell(line: str) -> None:
    """Prints the one line for the exception that is being handled."""
    with contextlib.suppress(OSError):  # standard error may be closed too
        if FLAGS["debug"].value:  # which an error of the flags themselves leaves at its default
            traceback.print_exc()
        print(f"error: {one_line(flagfiles.place(line) + line)}", file=sys.stderr)
