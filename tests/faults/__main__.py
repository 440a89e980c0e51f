"""All tests that docs/reliability.md names, run by `python -m tests.faults`.

With `--long` they take hours: they kill 200 runs, try 100,000 inputs and 10,000 configurations,
and train 100,000 steps. The figures are stored in docs/reliability.json and written into
docs/reliability.md.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from hvi_tf.storage import files, provenance
from tests.faults import FIGURES, LOG, LONG

ROOT = pathlib.Path(__file__).resolve().parents[2]
STORED, PAGE = ROOT / "docs" / "reliability.json", ROOT / "docs" / "reliability.md"
INPUTS = 100_000  # number of inputs of all property tests; figures of fewer inputs are not stored
_BEGIN, _END = "<!-- figures -->\n", "<!-- end of figures -->\n"


def main():
    """Runs the tests, prints their figures, and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--long", action="store_true", help="run for hours, not minutes")
    parser.add_argument("--only", default="", help="run the tests that match, as pytest's -k")
    parser.add_argument("--processes", type=int, default=2, help="number of tests at a time")
    parser.add_argument(
        "--log", type=pathlib.Path, help="file of the configurations tried so far, to resume from"
    )
    arguments = parser.parse_args()
    began = time.monotonic()
    provenance.commit()  # before the source may change
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "figures"
        environment = {**os.environ, FIGURES: str(file), LONG: "1" * arguments.long}
        if arguments.log:
            environment[LOG] = str(arguments.log.absolute())
        command = [sys.executable, "-m", "pytest", *named_tests(), "-m", "long or not long"]
        command += [
            "-n",
            str(arguments.processes),
            *(["-k", arguments.only] * bool(arguments.only)),
        ]
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        lines = file.read_text().splitlines() if file.exists() else []
    figures = _merge(map(json.loads, lines))
    for figure in figures:
        print(_as_text(figure))
    whole = [figure for figure in figures if figure.get("cases", INPUTS) >= INPUTS]
    if arguments.long and status == 0:
        _store(whole, round(time.monotonic() - began))
    return status


def named_tests():
    """Returns the paths of the test files that the page names."""
    names = set(re.findall(r"`(test_\w+)(?:\.py)?`", PAGE.read_text())) | {"test_reliability"}
    paths = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if path.stem in names)
    assert {path.stem for path in paths} == names
    return [str(path.relative_to(ROOT)) for path in paths]


def _merge(figures):
    """Merges figures of one name, because several processes share its cases."""
    merged = {}
    for figure in figures:
        first = merged.setdefault(figure["name"], figure)
        if first is not figure:
            first["cases"] += figure["cases"]
    return list(merged.values())


def _store(figures, seconds):
    """Stores each figure in place of an earlier one, and writes all into the page's table."""
    about = {"seconds": seconds, **provenance.record()}
    stored = json.loads(STORED.read_text()) if STORED.exists() else {}
    stored |= {figure.pop("name"): {**figure, "about": about} for figure in figures}
    files.write_json(STORED, stored)
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    files.write_atomically(PAGE, before + _BEGIN + table(stored) + _END + rest.partition(_END)[2])


def table(stored):
    """Returns the figures as a Markdown table."""
    lines = ["| | figures | when, where |", "|---|---|---|"]
    for name, figure in sorted(stored.items()):
        about = figure["about"]
        where = f"{about['date'][:10]}, {about['machine']['cores']} cores, commit {about['commit']}"
        text = _as_text({k: v for k, v in figure.items() if k != "about"})
        lines.append(f"| {name} | {text} | {where} |")
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
