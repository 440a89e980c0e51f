"""All fault tests: `python -m tests.faults`, in minutes, or with `--long`, in hours.

The long form kills 200 runs, tries 100,000 inputs and 10,000 configurations, and trains 100,000
steps. Its figures go to docs/reliability.json, and from there into docs/reliability.md.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from hvi_tf.storage import files, provenance
from tests.faults import FIGURES, LOG, LONG

ROOT = pathlib.Path(__file__).resolve().parents[2]
STORED, PAGE = ROOT / "docs" / "reliability.json", ROOT / "docs" / "reliability.md"
INPUTS = 100_000  # of the property tests together; `--only` a part of them is no figure
_BEGIN, _END = "<!-- figures -->\n", "<!-- end of figures -->\n"


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--long", action="store_true", help="hours, in place of minutes")
    parser.add_argument("--only", default="", help="the tests that pytest's -k names")
    parser.add_argument("--processes", type=int, default=2, help="tests at a time")
    parser.add_argument(
        "--log", type=pathlib.Path, help="of the configurations so far, gone on from if stopped"
    )
    arguments = parser.parse_args()
    began = time.monotonic()
    provenance.commit()  # before the source may change
    with tempfile.TemporaryDirectory() as folder:
        found = pathlib.Path(folder) / "figures"
        environment = {**os.environ, FIGURES: str(found), LONG: "1" * arguments.long}
        if arguments.log:
            environment[LOG] = str(arguments.log.absolute())
        command = [sys.executable, "-m", "pytest", "tests/faults", "-m", "long or not long"]
        command += [
            "-n",
            str(arguments.processes),
            *(["-k", arguments.only] * bool(arguments.only)),
        ]
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        lines = found.read_text().splitlines() if found.exists() else []
    figures = _together(map(json.loads, lines))
    for figure in figures:
        print(_as_text(figure))
    whole = [figure for figure in figures if figure.get("cases", INPUTS) >= INPUTS]
    if arguments.long and status == 0:
        _store(whole, round(time.monotonic() - began))
    return status


def _together(figures):
    """Each name once: several processes have shared the cases of one."""
    found = {}
    for figure in figures:
        known = found.setdefault(figure["name"], figure)
        if known is not figure:
            known["cases"] += figure["cases"]
    return list(found.values())


def _store(figures, seconds):
    """Keeps the figures, each as of its last run, and writes the page's table of them."""
    about = {"seconds": seconds, **provenance.record()}
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    stored |= {figure.pop("name"): {**figure, "about": about} for figure in figures}
    files.write_json(STORED, stored)
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    files.write_atomically(PAGE, before + _BEGIN + table(stored) + _END + rest.partition(_END)[2])


def table(stored):
    """The figures as Markdown."""
    lines = ["| | figures | when, where |", "|---|---|---|"]
    for name, figure in sorted(stored.items()):
        about = figure["about"]
        where = f"{about['date'][:10]}, {about['machine']['cores']} cores, commit {about['commit']}"
        told = _as_text({k: v for k, v in figure.items() if k != "about"})
        lines.append(f"| {name} | {told} | {where} |")
    return "\n".join(lines) + "\n"


def _as_text(figure):
    return ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in figure.items())


def _value(value):
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {v}" for k, v in sorted(value.items())) + ")"
    if isinstance(value, list):
        return " to ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    sys.exit(main())
