#!/usr/bin/env python
r"""Runs a grid of settings, on this machine or as a Slurm array, and prints its scores.

    python launch/sweep.py --grid='K=1,5;gradient=dreg,reparameterized' --out=runs/sweep \
        --jobs=2 -- --bound=iwhvi --K_schedule= --epochs=5

Arguments after `--` are flags of `python -m hvi_tf.main` for every cell. Each cell is a separate
run in a folder of --out that is named after its settings; its log is next to the folder. The same
command again skips finished cells, resumes the others, and prints the table.

With --slurm the unfinished cells become one job array. When it has ended, the same command prints
the table. `--sbatch='--time=2:00:00 --gpus=1'` passes options to sbatch.
"""

import argparse
import concurrent.futures
import contextlib
import itertools
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import urllib.parse
from typing import Any, NamedTuple

# `python launch/sweep.py` has only launch/ on its path; in a clone the package is next to it.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from hvi_tf.config import rules as validation
from hvi_tf.errors import UserError, one_line
from hvi_tf.storage import files

INTERRUPTED = 130
LAST_BYTES = 2**20  # of a log, which are searched for an error
STOPPED = (INTERRUPTED, 143)  # statuses after SIGINT and SIGTERM


class Cell(NamedTuple):
    """One point of the grid."""

    settings: dict[str, str]
    workdir: pathlib.Path
    flags: list[str]  # of hvi_tf.main

    @property
    def log(self) -> pathlib.Path:
        """Returns the path of the run's output."""
        return self.workdir.with_name(f"{self.workdir.name}.log")

    @property
    def marker(self) -> pathlib.Path:
        """Returns the path of the file that holds the flags of a finished run."""
        return self.workdir / "sweep.json"

    @property
    def is_finished(self) -> bool:
        """Returns whether the run has finished with exactly these flags."""
        try:
            return files.read_json(self.marker) == self.flags
        except (OSError, ValueError):  # missing, or incomplete because the machine crashed
            return False


def main(argv: list[str]) -> int:
    """Runs the unfinished cells of a sweep; returns the exit status, 2 for a user's mistake."""
    try:
        status = _sweep(argv)
    except SystemExit as end:  # from argparse, which has printed its help or an error
        status = end.code if isinstance(end.code, int) else 2
    except (OSError, ValueError, UserError) as error:
        status = _fail(str(error))
    try:
        print(end="", flush=True)
    except BrokenPipeError:  # for example in `--help | head -1`
        _discard_output()
    except OSError as error:
        _discard_output()
        status = status or _fail(f"standard output: {error.strerror}")
    return status


def _discard_output() -> None:
    """Sends further output to the null device; otherwise Python exits with status 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(reason: str) -> int:
    """Prints an error on one line; returns its exit status."""
    with contextlib.suppress(OSError):
        print(f"error: {one_line(reason)}", file=sys.stderr)
    return 2


def _sweep(argv: list[str]) -> int:
    split = argv.index("--") if "--" in argv else len(argv)
    arguments = _parser().parse_args(argv[:split])
    arguments.out = validation.local_path("--out", arguments.out)
    cells = make_cells(arguments.grid, arguments.out, argv[split + 1 :])
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.cell is not None:
        return run_here([cells[arguments.cell]], jobs=1)
    unfinished = [cell for cell in cells if not cell.is_finished]
    print(f"Finished cells: {len(cells) - len(unfinished)} of {len(cells)}.", flush=True)
    if unfinished and arguments.slurm:
        return submit(arguments, argv, [cells.index(cell) for cell in unfinished])
    status = run_here(unfinished, arguments.jobs)
    print("\n" + table(cells))
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--grid", required=True, help="name=value,value;name=value,... of flags of hvi_tf.main")
    add("--out", required=True, help="folder of the cells")
    add(
        "--jobs", default=1, type=int, help="number of cells at a time, also in an array if above 1"
    )
    add("--slurm", action="store_true", help="submit a job array instead of running here")
    add(
        "--sbatch",
        default=[],
        type=shlex.split,
        help="options for sbatch, such as '--time=2:00:00 --gpus=1'",
    )
    add("--cell", type=int, help=argparse.SUPPRESS)  # for the tasks of the array
    return parser


def make_cells(grid: str, out: pathlib.Path, flags: list[str]) -> list[Cell]:
    """Returns the cells of a grid `name=value,value;name=...`; the last name changes fastest.

    Raises:
        ValueError: with the part of the grid that is wrong.
    """
    axes: dict[str, list[str]] = {}
    for part in filter(None, grid.split(";")):
        name, equals, values = part.partition("=")
        if not (name.isidentifier() and equals and values) or name in axes:
            raise ValueError(f"--grid: {part!r}: write it like 'K=1,5;gradient=dreg,stl'")
        if name == "workdir":
            raise ValueError("--grid: must not vary workdir; each cell has its own, in --out")
        axes[name] = values.split(",")
    if not axes:
        raise ValueError(f"--grid={grid}: name a flag and its values, such as 'K=1,5'")
    cells = []
    for values in itertools.product(*axes.values()):
        settings = dict(zip(axes, values, strict=True))
        own = [f"--{name}={value}" for name, value in settings.items()]
        # Quotes each value, because it may be a path and its slashes would name folders.
        name = "-".join(f"{n}={urllib.parse.quote(v, safe='')}" for n, v in settings.items())
        cells.append(Cell(settings, out / name, [*flags, *own, f"--workdir={out / name}"]))
    return cells


_running: list[subprocess.Popen] = []


def run(cell: Cell) -> int:
    """Runs or resumes a cell; returns its exit status."""
    command = [sys.executable, "-u", "-m", "hvi_tf.main", *cell.flags]
    with files.open_to_append(cell.log) as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        _running.append(process)
        status = process.wait()
        _running.remove(process)
    if status == 0:
        files.write_json(cell.marker, cell.flags)
    elif status not in STOPPED:
        print(f"{cell.workdir.name} failed: {_last_line(cell.log)} (see {cell.log})", flush=True)
    return status


def _last_line(log: pathlib.Path) -> str:
    with files.open_regular(log) as file:
        file.seek(max(0, log.stat().st_size - LAST_BYTES))
        text = file.read(LAST_BYTES).decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no output"])[-1]


def run_here(cells: list[Cell], jobs: int) -> int:
    """Runs cells on this machine, `jobs` at a time; returns 0 if all of them finish."""

    def end(number: int, frame: object) -> None:  # Ctrl-C reaches the cells directly
        for process in list(_running):
            process.terminate()
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, end)
    pool = concurrent.futures.ThreadPoolExecutor(max(jobs, 1))
    try:
        statuses = list(pool.map(run, cells))
    except KeyboardInterrupt:
        print("\nInterrupted; every cell saves a checkpoint. The same command resumes.", flush=True)
        return INTERRUPTED
    finally:
        pool.shutdown(cancel_futures=True)
        signal.signal(signal.SIGTERM, previous)
    if {*STOPPED} & {*statuses}:
        return INTERRUPTED
    return 1 if any(statuses) else 0


def submit(arguments: argparse.Namespace, argv: list[str], indices: list[int]) -> int:
    """Submits the cells with these indices as one job array."""
    out = arguments.out.resolve()
    itself = [sys.executable, str(pathlib.Path(__file__).resolve())]
    split = argv.index("--") if "--" in argv else len(argv)
    before, after = shlex.join([*itself, *argv[:split]]), shlex.join(argv[split:])
    script = out / "array.sbatch"
    # exec makes the signal before the time limit reach this program, which passes it on.
    line = f'exec {before} --cell="$SLURM_ARRAY_TASK_ID" {after}'
    files.write_atomically(script, f"#!/usr/bin/env bash\n{line}\n")
    array = ",".join(map(str, indices)) + (f"%{arguments.jobs}" if arguments.jobs > 1 else "")
    command = ["sbatch", f"--array={array}", "--job-name=hvi_tf-sweep", "--requeue"]
    folder = str(out).replace("%", "%%")  # sbatch replaces %j and the like
    command += ["--signal=B:TERM@120", f"--output={folder}/array-%a.log"]
    command += [*arguments.sbatch, str(script)]
    try:
        return subprocess.run(command, check=False).returncode
    except FileNotFoundError:
        return _fail("--slurm: sbatch is not installed here")


def table(cells: list[Cell]) -> str:
    """Returns the score of every cell, from its latest evaluation."""
    names = list(cells[0].settings)
    rows = [[*names, "score, nats", "+-", "images", "step"]]
    rows += [[*cell.settings.values(), *_score(cell)] for cell in cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _score(cell: Cell) -> list[str]:
    if not cell.is_finished:
        return ["unfinished", "", "", ""]
    summaries = sorted(
        (cell.workdir / "evaluation").glob("*.json"), key=lambda f: f.stat().st_mtime
    )
    if not summaries:
        return ["no score", "", "", ""]
    try:
        return _of_summary(files.read_json(summaries[-1]))
    except (OSError, ValueError, KeyError, TypeError):
        return [f"cannot read {summaries[-1].name}", "", "", ""]


def _of_summary(summary: dict[str, Any]) -> list[str]:
    # The first score of a run's own table: the bound on log p(x), or else the ELBO.
    bounds = [name for name in summary if name.startswith("log_likelihood")] or ["elbo"]
    score = summary[bounds[-1]]
    error = score["standard_error"]
    shown = "" if error is None else f"{error:.3f}"
    return [f"{score['mean']:.3f}", shown, str(summary["images"]), str(summary["step"])]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
