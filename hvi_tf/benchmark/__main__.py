"""Measures the cost of training and evaluation, as tables and JSON.

    python -m hvi_tf.benchmark --out=runs/benchmark.json
    python -m hvi_tf.benchmark --compare --cells= --families= --evaluations=
    python -m hvi_tf.benchmark --cells='iwhvi:K=50,batch_size=256;vae' --families=K

Each table is one set of contestants, timed in turn, round by round, on noise as dark as MNIST.
Operations are counted from the shapes of the executed graph. The share of the product rate is the
time of the matrix products alone over the time of the step. hvi_tf/benchmark/parts.py defines the
parts of a step. Each peak of memory is measured in a separate process.
"""

import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from absl import flags

from hvi_tf.benchmark import cells as cells_lib
from hvi_tf.benchmark import regression, tables
from hvi_tf.benchmark.cells import (
    CELLS,
    FAMILIES,
    QUICK_CELLS,
    QUICK_FAMILIES,
    Cell,
    Family,
)
from hvi_tf.cli import exits as command_line
from hvi_tf.config import rules as validation
from hvi_tf.errors import UserError
from hvi_tf.runtime import startup
from hvi_tf.runtime.progress import counted
from hvi_tf.storage import files
from hvi_tf.storage.provenance import provenance, record

FLAGS = flags.FLAGS

_REFERENCE = Cell("iwhvi", dict(bound="iwhvi", K=50))
_QUICK = Cell("iwhvi", dict(bound="iwhvi", K=3, batch_size=8, hidden=(16, 16)))


def define_flags() -> None:
    """Defines the flags, for a run of this module only: other modules have the same names."""
    flags.DEFINE_string(
        "cells", CELLS, "Training steps as bound:setting=value,..., separated by semicolons."
    )
    flags.DEFINE_list(
        "families", list(FAMILIES), "Counts to vary: any of " + ", ".join(FAMILIES) + "."
    )
    flags.DEFINE_string(
        "evaluations",
        "10x20,100x20,100x100,1000x100,diwhvi-mixture:1000x1000,bsvi-100",
        "Scores, as MxK, BOUND:MxK or bsvi-STEPS.",
    )
    flags.DEFINE_bool(
        "compare", False, "Also measures the same step in PyTorch and JAX, if installed."
    )
    flags.DEFINE_list("contestants", None, "Contestants of --compare. Default: all.")
    flags.DEFINE_integer("rounds", 7, "Rounds in which every contestant is measured once.", 1)
    flags.DEFINE_float("seconds", 0.2, "Minimum seconds of a measurement.", 0.0)
    flags.DEFINE_bool(
        "quick", False, "Runs two rounds on tiny networks, as a check that the command works."
    )
    flags.DEFINE_string("out", "", "JSON file for all measurements.")
    flags.DEFINE_string("store", "", "JSON file for the ratios alone, such as docs/benchmark.json.")
    flags.DEFINE_string("check", "", "File of --store whose ratios are shown next to the new ones.")


def chosen_families() -> list[Family]:
    """Returns the families that --families names.

    Raises:
        UserError: for an unknown family.
    """
    for name in FLAGS.families:
        if name not in FAMILIES:
            raise UserError(f"--families: unknown {name!r}; choose from {', '.join(FAMILIES)}")
    preset = FLAGS.quick and not FLAGS["families"].present
    families = [FAMILIES[name] for name in (QUICK_FAMILIES if preset else FLAGS.families)]
    return [cells_lib.quick(f) for f in families] if FLAGS.quick else families


def measure(keep: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """Measures everything that the flags select, and prints each table when it is complete.

    Args:
        keep: receives the results so far after each table, so that an interruption loses none.
    """
    count, seconds = (2, 0.0) if FLAGS.quick else (FLAGS.rounds, FLAGS.seconds)
    reference = _QUICK if FLAGS.quick else _REFERENCE
    preset = FLAGS.quick and not FLAGS["cells"].present
    cells = cells_lib.parse_cells(QUICK_CELLS if preset else FLAGS.cells)
    preset = FLAGS.quick and not FLAGS["evaluations"].present
    scores = cells_lib.parse_evaluations("5x2" if preset else FLAGS.evaluations, reference)
    families = chosen_families()
    # For this process and the processes of peers, which share a GPU.
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    startup.quiet_tensorflow(FLAGS.debug)
    results: dict[str, Any] = {"cells": [], "families": [], "evaluations": [], "comparison": []}
    if FLAGS.compare:
        results["comparison"], results["frameworks"] = compare(reference, count, seconds)
        keep(results)
    from hvi_tf.benchmark import measuring

    of_cells, of_families, of_scores = measuring.peaks(cells, families, scores)
    for cell, peak in zip(cells, of_cells, strict=True):
        report_progress(f"measuring {cell.name}")
        results["cells"].append(measuring.cell(cell, peak, count, seconds))
    if cells:
        show(tables.training(results["cells"]), tables.split(results["cells"]))
        keep(results)
    for family, peaks in zip(families, of_families, strict=True):
        report_progress(f"measuring the family {family.name}")
        results["families"].append(measuring.family(family, peaks, count, seconds))
    if families:
        show(tables.growth(results["families"]))
        keep(results)
    if scores:
        report_progress("measuring evaluations")
        results["evaluations"] = measuring.evaluations(scores, of_scores, count, seconds)
        show(tables.evaluation(results["evaluations"]))
        keep(results)
    return results


def compare(cell: Cell, count: int, seconds: float) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Returns the results of `--compare` and the versions of the frameworks.

    This process does not import TensorFlow for it.
    """
    from hvi_tf.benchmark import rounds
    from hvi_tf.benchmark.peers import compare as peers

    names = FLAGS.contestants or list(peers.CONTESTANTS)
    for name in names:
        if name not in peers.CONTESTANTS:
            raise UserError(
                f"--contestants: unknown {name!r}; choose from {', '.join(peers.CONTESTANTS)}"
            )
    contestants = peers.installed(list(dict.fromkeys([peers.OURS, *names])))
    for name in set(names) - set(contestants):
        report_progress(f"left out: {name}, which is not installed")
    report_progress(f"comparing {', '.join(contestants)}")
    times, peaks = peers.compare(contestants, cell, count, seconds)
    records = [
        {
            "name": name,
            "about": contestant.about,
            "times": times[name],
            "spread": rounds.spread(times[name]),
            "over_ours": rounds.ratios(times[name], times[peers.OURS]),
            "peak": peaks[name],
        }
        for name, contestant in contestants.items()
    ]
    versions = peers.versions(contestants)
    about = f"{cells_lib.settings_text(cell.settings)}; "
    about += ", ".join(f"{name} {version}" for name, version in versions.items())
    show(tables.comparison(records), f"{about}.")
    return records, versions


def show(*parts: str) -> None:
    """Prints tables."""
    print("", *parts, sep="\n\n", flush=True)


def report_progress(text: str) -> None:
    """Prints progress to standard error, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str]) -> None:
    """Runs the command."""
    del argv
    command_line.run(run, lambda: command_line.again("hvi_tf.benchmark"))


def run() -> None:
    """Measures, prints tables and stores the numbers."""
    now = record()  # now, because the source may change during the measurements
    # Averages over 1, 5 and 15 minutes. Busy cores slow some frameworks more than others.
    load = [round(n, 2) for n in os.getloadavg()]
    out, store, check = (
        validation.local_path(f"--{name}", FLAGS[name].value) for name in ("out", "store", "check")
    )
    stored = regression.read(check) if FLAGS.check else None

    def keep(results: dict[str, Any]) -> None:
        versions = {**now["versions"], **results.get("frameworks", {})}
        about = {
            "provenance": {**now, "versions": versions, "load_before": load},
            "ratios": regression.ratios(results),
        }
        if FLAGS.out:
            write(out, {**about, **results})
        if FLAGS.store:
            write(store, about)

    ratios = regression.ratios(measure(keep))
    count = counted(2 if FLAGS.quick else FLAGS.rounds, "round")
    before = ", ".join(map(str, load))
    show(f"{count}. {provenance()}. Load before it (1, 5, 15 minutes): {before}.")
    if stored is not None:
        show(regression.check(stored, ratios))


def write(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON file and makes its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(path, content)


if __name__ == "__main__":
    define_flags()
    command_line.start(main, __doc__)
