"""Reproduces figures and tables of the papers.

    python -m hvi_tf.reproduce laplace                    # quick: minutes on 2 cores
    python -m hvi_tf.reproduce training-k --preset=long   # trained to the end: nights on 2 cores
    python -m hvi_tf.reproduce bsvi-tables --preset=full  # the paper's setting
    python -m hvi_tf.reproduce --list                     # all, with their cost
    python -m hvi_tf.reproduce --list laplace             # its settings, for --set

Several names, or `all`, run one after another. The folder --out/NAME contains results.csv (a
row per measurement), figures as PNG and SVG, and results.json (settings, versions, machine,
commit, claims). Finished cells are not measured again, so the same command resumes after
Ctrl-C, a kill or a crash. Several processes with one --out, such as the tasks of a Slurm array,
share the work. `python -m hvi_tf.report DIR` makes a page of all results.
"""

import fnmatch
import importlib.util
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from hvi_tf.cli import exits
from hvi_tf.config import rules
from hvi_tf.config.settings import DataConfig, DeviceConfig
from hvi_tf.errors import UserError
from hvi_tf.experiments.harness import catalogue
from hvi_tf.runtime import startup
from hvi_tf.runtime.progress import counted

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags of this command; other commands have flags of the same names."""
    flags.DEFINE_boolean(
        "list", False, "Lists the experiments with their cost; with names, also settings and cells."
    )
    flags.DEFINE_enum(
        "preset",
        "quick",
        catalogue.PRESETS,
        "quick shows the shape of a claim; full is the setting of the paper; long takes nights on "
        "2 cores.",
    )
    flags.DEFINE_string("out", "", "Folder of results and runs. Default: runs/reproduce-PRESET.")
    flags.DEFINE_multi_string(
        "set",
        [],
        "Changes a setting of the preset, such as --set=seeds=5 or --set=K=0,5,50; may be "
        "repeated. --list NAME lists the settings.",
    )
    flags.DEFINE_string(
        "cells",
        "*",
        "Measures only the cells with matching names, such as '*-seed3'.",
    )
    flags.DEFINE_string("data_dir", "", "The same as for hvi_tf.main.")
    flags.DEFINE_string("manual_dir", "", "The same as for hvi_tf.main.")


def listing(names: Sequence[str]) -> str:
    """Returns the table of experiments, with settings and cells for the given names."""
    lines = ["The cost of quick is measured on 2 cores. The costs of full and long are estimates."]
    lines.append("")
    for entry in catalogue.ENTRIES.values():
        if not names or entry.name in names:
            lines.append(f"{entry.name}: {entry.title} ({entry.source})")
            costs = (f"{preset}: {getattr(entry, preset)}" for preset in entry.presets)
            lines.append(f"    {'; '.join(costs)}")
    for name in names:
        experiment = catalogue.load(name)
        for preset, settings in experiment.presets.items():
            cells = [cell.name for cell in experiment.cells(settings)]
            given = (f"{n}={_text(value)}" for n, value in settings.items())
            lines += ["", f"{name}, {preset}: " + " ".join(given)]
            lines.append(f"    {counted(len(cells), 'cell')}: {_shown(cells)}")
    return "\n".join(lines)


def _shown(names: list[str]) -> str:
    """Returns names for a message; of more than four, the first three and the last."""
    return ", ".join(names if len(names) <= 4 else [*names[:3], "...", names[-1]])


def _text(value: Any) -> str:
    """Returns a setting in the form of --set."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _names(arguments: list[str]) -> list[str]:
    """Returns the names of experiments in the arguments; `all` means all of them."""
    if not arguments:
        raise UserError("name an experiment, or all; --list lists them")
    if arguments == ["all"]:
        return list(catalogue.ENTRIES)
    for name in arguments:
        if name not in catalogue.ENTRIES:
            known = ", ".join(catalogue.ENTRIES)
            raise UserError(f"{name}: no such experiment; choose from {known}, or all")
    return arguments


def _with_preset(arguments: list[str], preset: str) -> list[str]:
    """Returns the names in the arguments; `all` means all experiments with the preset."""
    names = [name for name in _names(arguments) if preset in catalogue.ENTRIES[name].presets]
    for name in arguments:
        if name != "all" and name not in names:
            others = " or ".join(catalogue.ENTRIES[name].presets)
            raise UserError(f"{name}: has no --preset={preset}; choose {others}")
    return names


def _changes() -> dict[str, str]:
    """Returns the settings in --set by name."""
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
    cells: list[Any]  # to be measured


def _task(name: str) -> Task:
    """Returns an experiment with the settings of the flags.

    Raises:
        UserError: if the flags do not fit the experiment; the message names it.
    """
    from hvi_tf.experiments.harness.experiment import settings_of

    experiment = catalogue.load(name)
    try:
        settings = settings_of(experiment, FLAGS.preset, _changes())
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    cells = experiment.cells(settings)
    chosen = [cell for cell in cells if fnmatch.fnmatch(cell.name, FLAGS.cells)]
    if not chosen:
        raise UserError(
            f"{name}: no cell matches --cells={FLAGS.cells}; they are named like {cells[0].name}"
        )
    return Task(name, experiment, settings, chosen)


def _make(out: pathlib.Path) -> None:
    """Makes the folder of --out."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out={out}: {error.strerror}; name another") from error


def _check_data(task: Task, folder: pathlib.Path) -> None:
    """Raises `UserError` if a data set of an unfinished cell cannot be loaded."""
    from hvi_tf.data import datasets
    from hvi_tf.experiments.harness import measuring

    where = dict(data_dir=FLAGS.data_dir, manual_dir=FLAGS.manual_dir)
    left = measuring.unfinished(task.cells, folder)
    needed = dict.fromkeys(c.settings["dataset"] for c in left if "dataset" in c.settings)
    for name in needed:
        try:
            datasets.load(DataConfig(dataset=name, split="shu", **where))
        except UserError as error:
            others = ",".join(d for d in task.settings["datasets"] if d != name)
            hint = f"; --set=datasets={others} leaves it out" if others else ""
            raise UserError(f"{task.name}: {error}{hint}") from error


def reproduce(task: Task, out: pathlib.Path) -> None:
    """Measures the unfinished cells of an experiment, and makes its figures at the end."""
    from hvi_tf.experiments.harness import measuring
    from hvi_tf.experiments.harness.experiment import Context

    folder = out / task.name
    context = Context(
        cell=folder,
        runs=out / "runs",
        pictures=folder / "pictures",
        data_dir=FLAGS.data_dir,
        manual_dir=FLAGS.manual_dir,
    )
    print(f"== {task.name}: {counted(len(task.cells), 'cell')}, {folder}", flush=True)
    _check_data(task, folder)
    measuring.measure_cells(task.experiment, task.cells, folder, context)
    changes = [f"--set={text}" for text in FLAGS.set]
    command = ["python", "-m", "hvi_tf.reproduce", task.name, f"--preset={FLAGS.preset}", *changes]
    metadata = dict(name=task.name, preset=FLAGS.preset, command=shlex.join(command))
    results = measuring.collect(task.experiment, task.settings, metadata, folder)
    if results is None:
        left = measuring.unfinished(task.experiment.cells(task.settings), folder)
        print(
            f"{task.name}: {counted(len(left), 'cell')} {'is' if len(left) == 1 else 'are'} left "
            f"({_shown([cell.name for cell in left])}); run this command without --cells to "
            "measure them and make the figures."
        )
        return
    print(measuring.as_text(results))
    print(f"Results: {folder}")


def _hints(out: pathlib.Path) -> str:
    """Returns the commands that show the results and the event files of a folder."""
    text = ""
    if any((out / name / "results.json").exists() for name in catalogue.ENTRIES):
        command = ["python", "-m", "hvi_tf.report", str(out)]
        text += f"\nFor a page of all results:\n  {shlex.join(command)}\n"
    if any(out.rglob("*tfevents*")):
        command = ["tensorboard", f"--logdir={out}"]
        text += f"\nFor the trainings:\n  {shlex.join(command)}\n"
    return text


def main(argv: list[str]) -> None:
    """Runs the named experiments."""

    def command() -> None:
        if FLAGS.list:
            print(listing(_names(argv[1:]) if len(argv) > 1 else []))
            return
        names = _with_preset(argv[1:], FLAGS.preset)
        out = rules.local_path("--out", FLAGS.out or f"runs/reproduce-{FLAGS.preset}")
        if importlib.util.find_spec("matplotlib") is None:
            raise UserError("experiments need matplotlib: pip install -e '.[plots]'")
        startup.quiet_tensorflow(FLAGS.debug)
        startup.check_keras_backend()
        startup.check_keras_dtype()
        import tensorflow as tf

        from hvi_tf.runtime import devices

        devices.configure(DeviceConfig())  # several of these commands may share a GPU
        tasks = [_task(name) for name in names]
        _make(out)
        tf.get_logger().setLevel("ERROR")  # it warns of retracing
        for task in tasks:
            reproduce(task, out)
        print(_hints(out), end="")

    exits.run(command, lambda: exits.again("hvi_tf.reproduce"))
