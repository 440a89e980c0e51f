"""Reproduces a figure or table of the papers.

    python -m hvi_tf.reproduce laplace                    # quick: minutes on 2 cores
    python -m hvi_tf.reproduce bsvi-tables --preset=full  # the paper's setting
    python -m hvi_tf.reproduce --list

Several names, or `all`, run one after another. Results lie in --out/NAME: results.csv (a row
per measurement), figures as PNG and SVG, and results.json (settings, versions, machine,
commit, claims). What is finished is not measured again, so the same command goes on after
Ctrl-C, a kill or a crash, and given several times, as to the tasks of a Slurm array on one
--out, it shares the work. `python -m hvi_tf.report DIR` makes a page of all results.
"""

import fnmatch
import importlib.util
import os
import pathlib
import shlex
import sys
from typing import Any, NamedTuple

from absl import app, flags

from hvi_tf import command_line
from hvi_tf.errors import UserError
from hvi_tf.experiments import catalogue

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Only for a run of this module: other modules have flags of these names."""
    flags.DEFINE_boolean("list", False, "Lists the experiments with their cost.")
    flags.DEFINE_enum(
        "preset", "quick", catalogue.PRESETS, "quick shows a claim's shape; full is the paper's."
    )
    flags.DEFINE_string("out", "", "Folder of results and runs. Default: runs/reproduce-PRESET.")
    flags.DEFINE_multi_string(
        "set", [], "Changes a setting of the preset, such as --set=seeds=5; may be repeated."
    )
    flags.DEFINE_string(
        "cells",
        "*",
        "Measures only the cells whose names match, such as '*-seed3'.",
    )
    flags.DEFINE_string("data_dir", "", "As for hvi_tf.main.")
    flags.DEFINE_string("manual_dir", "", "As for hvi_tf.main.")


def listing() -> str:
    """The table of experiments."""
    lines = ["Cost of quick: on 2 cores, as measured. Of full: an estimate.", ""]
    for entry in catalogue.ENTRIES.values():
        lines += [
            f"{entry.name}: {entry.title} ({entry.source})",
            f"    quick: {entry.quick}; full: {entry.full}",
        ]
    return "\n".join(lines)


def _names(arguments: list[str]) -> list[str]:
    if not arguments:
        raise UserError("name an experiment, or all; --list shows them")
    if arguments == ["all"]:
        return list(catalogue.ENTRIES)
    for name in arguments:
        if name not in catalogue.ENTRIES:
            known = ", ".join(catalogue.ENTRIES)
            raise UserError(f"{name}: no such experiment; choose from {known}, or all")
    return arguments


def _changes() -> dict[str, str]:
    changes = {}
    for text in FLAGS.set:
        name, equals, value = text.partition("=")
        if not equals or not value:
            raise UserError(f"--set={text}: must look like --set=NAME=VALUE")
        changes[name] = value
    return changes


class Task(NamedTuple):
    """An experiment with the settings of this command."""

    name: str
    experiment: Any
    settings: dict[str, Any]
    cells: list[Any]  # those to be measured


def _task(name: str) -> Task:
    """Raises `UserError`, naming the experiment, if the flags do not fit it."""
    from hvi_tf.experiments.experiment import settings_of

    experiment = catalogue.load(name)
    try:
        settings = settings_of(experiment, FLAGS.preset, _changes())
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    cells = experiment.cells(settings)
    chosen = [cell for cell in cells if fnmatch.fnmatch(cell.name, FLAGS.cells)]
    if not chosen:
        raise UserError(f"{name}: none of its {len(cells)} cells matches --cells={FLAGS.cells}")
    return Task(name, experiment, settings, chosen)


def reproduce(task: Task, out: pathlib.Path) -> None:
    """Measures what is left of an experiment, and makes its figures when nothing is."""
    from hvi_tf.experiments import measuring
    from hvi_tf.experiments.experiment import Context

    folder = out / task.name
    context = Context(
        cell=folder,
        runs=out / "runs",
        pictures=folder / "pictures",
        data_dir=FLAGS.data_dir,
        manual_dir=FLAGS.manual_dir,
    )
    print(f"== {task.name}: {len(task.cells)} cells, {folder}", flush=True)
    measuring.measure_cells(task.experiment, task.cells, folder, context)
    changes = [f"--set={text}" for text in FLAGS.set]
    command = ["python", "-m", "hvi_tf.reproduce", task.name, f"--preset={FLAGS.preset}", *changes]
    told = dict(name=task.name, preset=FLAGS.preset, command=shlex.join(command))
    results = measuring.collect(task.experiment, task.settings, told, folder)
    if results is None:
        print(f"{task.name}: some cells are not measured yet; without --cells this makes figures")
        return
    print(measuring.as_text(results))
    print(f"Results: {folder}")


def main(argv: list[str]) -> None:
    """Runs the experiments that are named."""

    def command() -> None:
        if FLAGS.list:
            print(listing())
            return
        names = _names(argv[1:])
        if importlib.util.find_spec("matplotlib") is None:
            raise UserError("experiments need matplotlib: pip install -e '.[plots]'")
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        out = pathlib.Path(FLAGS.out or f"runs/reproduce-{FLAGS.preset}")
        tasks = [_task(name) for name in names]
        tf.get_logger().setLevel("ERROR")  # many counts, many graphs: no news in an experiment
        for task in tasks:
            reproduce(task, out)
        print(f"\nTo go on:\n  python -m hvi_tf.report {out}\n  tensorboard --logdir={out}")

    command_line.run(command, _same_command)


def _same_command() -> str:
    return shlex.join(["python", "-m", "hvi_tf.reproduce", *sys.argv[1:]])


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=command_line.flags_parser(__doc__))
