"""What the commands share: how flags are parsed, and how a mistake or a Ctrl-C ends them."""

import contextlib
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

from absl import flags, logging

from hvi_tf.errors import UserError, first_line
from hvi_tf.interrupts import Interrupted

FLAGS = flags.FLAGS

flags.DEFINE_boolean("debug", False, "Shows where in the program an error arose.")


def flags_parser(doc: str | None) -> Callable[[list[str]], list[str]]:
    """A parser for `app.run`: `doc` above the flags for --help, one line for a mistake."""

    def parse(argv: list[str]) -> list[str]:
        if {"--help", "-help", "-h"} & set(argv[1:]):
            print(f"{doc}\nflags:\n{FLAGS.main_module_help()}")
            sys.exit(0)
        try:
            return FLAGS(argv)
        except (flags.Error, ValueError, RecursionError) as error:
            # The last two are of flagfiles, and of flags of absl's own.
            text = " ".join(str(error).replace("ERROR:: ", "").split())
            text = re.sub(
                r"flag (\S+): (invalid literal|could not convert).*", r"\1: must be a number", text
            )
            print(f"error: {text}", file=sys.stderr)
            sys.exit(2)

    return parse


def run(command: Callable[[], None], same_command: Callable[[], str]) -> None:
    """Runs a command; one line and exit status 2 for anything the user can mend.

    Anything else is a defect of this program: one line too, and exit status 1. An interruption
    ends with 128 and the signal's number, as a shell would tell it.

    Args:
        command: what to run.
        same_command: tells how to go on after an interruption.
    """
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TFDS narrates at INFO
    try:
        command()
        sys.stdout.flush()  # here, where it is still told if that fails
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
        _tell(f"whoever read the output has gone; to go on: {same_command()}")
        sys.exit(2)
    except OSError as error:  # of a disk
        _tell(str(error))
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
    """What nobody reads goes nowhere, or Python would try again at its end, and exit with 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


_LESS = "give a smaller --batch_size, --K, --M or --L, or smaller networks"


def _tell(line: str) -> None:
    """The one line for the exception that is being handled."""
    with contextlib.suppress(OSError):  # nobody may read this, too
        if FLAGS.debug:
            traceback.print_exc()
        print(f"error: {' '.join(line.splitlines())}", file=sys.stderr)
