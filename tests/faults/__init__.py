"""Faults, one after the other, at a run: kills, full disks, damaged and hostile files, bad input.

Part of the suite in a short form. `python -m tests.faults --long` does all of it, in hours,
and leaves its figures where `docs/reliability.md` has them from.
"""

import json
import os
import pathlib

# Set by `python -m tests.faults`.
LONG, FIGURES, LOG = "HVI_FAULTS_LONG", "HVI_FAULTS_FIGURES", "HVI_FAULTS_LOG"


def count(short: int, long: int) -> int:
    """How many times to try."""
    return long if os.environ.get(LONG) else short


def record(name: str, **figures: object) -> None:
    """Keeps what a test has measured, for the page."""
    if os.environ.get(FIGURES):
        with pathlib.Path(os.environ[FIGURES]).open("a") as file:
            file.write(json.dumps({"name": name, **figures}) + "\n")
