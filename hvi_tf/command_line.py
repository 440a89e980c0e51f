"""What the commands share: how flags are parsed, and how a mistake or a Ctrl-C ends them."""

import re
import sys
from collections.abc import Callable

from absl import flags, logging

from hvi_tf.errors import UserError
from hvi_tf.interrupts import Interrupted

FLAGS = flags.FLAGS


def flags_parser(doc: str | None) -> Callable[[list[str]], list[str]]:
    """A parser for `app.run`: `doc` above the flags for --help, one line for a mistake."""

    def parse(argv: list[str]) -> list[str]:
        if {"--help", "-help", "-h"} & set(argv[1:]):
            print(f"{doc}\nflags:\n{FLAGS.main_module_help()}")
            sys.exit(0)
        try:
            return FLAGS(argv)
        except flags.Error as error:
            text = " ".join(str(error).replace("ERROR:: ", "").split())
            text = re.sub(
                r"flag (\S+): (invalid literal|could not convert).*", r"\1: must be a number", text
            )
            print(f"error: {text}", file=sys.stderr)
            sys.exit(2)

    return parse


def run(command: Callable[[], None], same_command: Callable[[], str]) -> None:
    """Runs a command; one line and exit status 2 for anything the user can mend.

    Args:
        command: what to run.
        same_command: tells how to go on after an interruption.
    """
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TFDS narrates at INFO
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt) as stop:
        # A second Ctrl-C does not wait for the checkpoint that the first one asked for.
        kept = "nothing is lost" if isinstance(stop, Interrupted) else "the last checkpoint stays"
        print(f"\nInterrupted; {kept}. To go on:\n  {same_command()}", flush=True)
        sys.exit(130)
