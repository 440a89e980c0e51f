"""Tests of faults: kills, full disks, damaged and hostile files, and bad input.

The suite runs them in a short form. `python -m tests.faults --long` runs them for hours and
stores the figures of `docs/reliability.md`.
"""

import json
import os
import pathlib

# Set by `python -m tests.faults`.
LONG, FIGURES, LOG = "HVI_FAULTS_LONG", "HVI_FAULTS_FIGURES", "HVI_FAULTS_LOG"


def count(short: int, long: int) -> int:
    """Returns how many cases a test tries."""
    return long if os.environ.get(LONG) else short


def record(name: str, **figures: object) -> None:
    """Stores what a test has measured, for the page."""
    if os.environ.get(FIGURES):
        with pathlib.Path(os.environ[FIGURES]).open("a") as file:
            file.write(json.dumps({"name": name, **figures}) + "\n")
