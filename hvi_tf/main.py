"""The command line: flags -> Config -> train -> evaluate -> export.

    python -m hvi_tf.main --dataset=mnist --bound=iwhvi --K=50

TensorFlow is imported only once the flags are known to be good.
"""

import dataclasses
import os
import pathlib
import re
import shlex
import sys
import time
import typing
from typing import Any, NamedTuple

from absl import app, flags, logging

from hvi_tf import config as config_lib
from hvi_tf import workdir as workdirs
from hvi_tf.config import Config
from hvi_tf.data import datasets
from hvi_tf.errors import UserError
from hvi_tf.interrupts import Interrupted
from hvi_tf.workdir import Workdir

FLAGS = flags.FLAGS
MODES = ("train", "fit_tau", "evaluate", "export", "sample")


def _flag_fields() -> list[dataclasses.Field]:
    return [f for f in config_lib.fields() if f.metadata["help"]]


def _define_flags() -> None:
    for field in _flag_fields():
        text = field.metadata["help"]
        kinds = typing.get_args(field.type) or (field.type,)
        if tuple in (field.type, typing.get_origin(field.type)):
            flags.DEFINE_list(field.name, [str(n) for n in field.default], text)  # type: ignore
        elif bool in kinds:
            flags.DEFINE_boolean(field.name, field.default, text)
        elif int in kinds:
            flags.DEFINE_integer(field.name, field.default, text)
        elif float in kinds:
            flags.DEFINE_float(field.name, field.default, text)
        else:
            flags.DEFINE_string(field.name, field.default, text)
    flags.DEFINE_string(
        "workdir", "", "Folder of the run; the same command on it resumes. Default: runs/<name>."
    )
    flags.DEFINE_string(
        "mode",
        "train",
        "train (then evaluates and exports); or, for a trained --workdir: fit_tau (keeps p and "
        "q and trains a fresh tau, in a folder of its own), evaluate, export, or sample (a PNG "
        "file of images that the model draws).",
    )


_define_flags()


def _flag_values(only_given: bool = False) -> dict[str, Any]:
    """The flags by name, lists of numbers as such."""
    values = {}
    for field in _flag_fields():
        flag = FLAGS[field.name]
        if flag.present or not only_given:
            values[field.name] = flag.value
            if isinstance(flag.value, list):
                values[field.name] = _whole_numbers(field.name, flag.value)
    return values


def _whole_numbers(name: str, texts: list[str]) -> tuple[int, ...]:
    try:
        return tuple(map(int, texts))
    except ValueError:
        raise UserError(
            f"--{name}={','.join(texts)}: must be whole numbers, such as 300,300"
        ) from None


def _config_of_run(workdir: Workdir) -> Config:
    """The run's own configuration; flags only say where data lie and what to evaluate."""
    stored = config_lib.flatten(workdir.config)
    given = _flag_values(only_given=True)
    if "estimator" in given:
        del stored["eval_steps"]  # which belongs to the stored estimator
    if given.get("jit_compile") == "auto":
        del given["jit_compile"]
    asked = config_lib.make(**{**stored, **given})
    changes = config_lib.differences(workdir.config, asked)
    if changes:
        raise UserError(
            f"--workdir={workdir.path} holds another run: {'; '.join(changes)}; "
            f"--mode={FLAGS.mode} takes the run's own settings, leave these out"
        )
    return asked


class _Task(NamedTuple):
    """What is asked for: a configuration, a folder, and the run in it if there has to be one."""

    config: Config
    path: pathlib.Path
    found: Any  # Workdir, or None for a new run


def _task(mode: str) -> _Task:
    if mode not in MODES:
        raise UserError(f"--mode={mode}: choose one of {', '.join(MODES)}")
    if mode == "train":
        config = config_lib.make(**_flag_values())
        datasets.check(config.data)
        path = pathlib.Path(FLAGS.workdir) if FLAGS.workdir else workdirs.new_path(config)
        workdirs.check_not_in_use(path)  # to say so now, not after TensorFlow has loaded
        return _Task(workdirs.reconcile(path, config), path, None)
    if not FLAGS.workdir:
        raise UserError(f"--mode={mode}: name the run's --workdir")
    run = workdirs.open_existing(pathlib.Path(FLAGS.workdir))
    return _Task(run.config if mode == "fit_tau" else _config_of_run(run), run.path, run)


def _run(mode: str) -> None:
    started = time.monotonic()
    config, path, found = _task(mode)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from hvi_tf import pictures
    from hvi_tf.evaluation import evaluate, summary
    from hvi_tf.export import export
    from hvi_tf.models.vae import make_vae
    from hvi_tf.training import fit_tau, loop
    from hvi_tf.training.checkpoints import Checkpoints

    if mode == "fit_tau":
        config = fit_tau.fit_config(config, _flag_values(only_given=True))
    config = config_lib.resolve_jit(config, bool(tf.config.list_physical_devices("GPU")))
    data = datasets.load(config.data)
    config = config_lib.with_digest(config, data.digest)
    loop.check_data(config, data)
    described = datasets.describe(config.data.dataset, data.digest)
    if described != config.data.dataset:
        print(f"Data: {described}", flush=True)
    x_dim = data.train.shape[1]
    trained = None
    if mode == "fit_tau":
        trained, step = fit_tau.load_trained(found, x_dim)
        path /= config_lib.fit_name(config, step)
        config = config_lib.with_frozen(config, step)
    model = make_vae(config, x_dim)
    if trained is not None:
        fit_tau.adopt(model, trained)
    result = None
    if mode in ("evaluate", "export", "sample"):
        run = found
    else:  # nothing is written before here
        run = workdirs.create_or_open(path, config)
        if mode == "train":
            FLAGS.workdir = str(path)
        print(f"Workdir: {path}", flush=True)
        result = loop.train(config, model, data, run)
    step = Checkpoints(model, run).restore_best()
    if mode == "sample":
        image = run.path / f"samples_step{step}.png"
        pictures.sample(model, config.evaluation.num_samples, data.image_shape, image)
        print(f"{config.evaluation.num_samples} images: {image}")
        return
    if mode != "evaluate":
        export(model, run.saved_model)
    if mode == "export":
        print(f"SavedModel of step {step}: {run.saved_model}")
        return
    scores = evaluate.evaluate(config, model, data.test, run, step)
    print(summary.table(config, run, scores, result, time.monotonic() - started))


def _same_command() -> str:
    """The command that goes on with an interrupted one."""
    arguments = sys.argv[1:]
    if FLAGS.workdir and not FLAGS["workdir"].present:  # chosen by this program
        arguments = [*arguments, f"--workdir={FLAGS.workdir}"]
    return shlex.join(["python", "-m", "hvi_tf.main", *arguments])


def main(argv: list[str]) -> None:
    """Runs a mode; one line and exit status 2 for anything the user can mend."""
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TFDS narrates at INFO
    try:
        if len(argv) > 1:
            raise UserError(f"{argv[1]}: not a flag; flags look like --name=value")
        _run(FLAGS.mode)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except (Interrupted, KeyboardInterrupt) as stop:
        # A second Ctrl-C does not wait for the checkpoint that the first one asked for.
        kept = "nothing is lost" if isinstance(stop, Interrupted) else "the last checkpoint stays"
        print(f"\nInterrupted; {kept}. To go on:\n  {_same_command()}", flush=True)
        sys.exit(130)


def _parse_flags(argv: list[str]) -> list[str]:
    if {"--help", "-help", "-h"} & set(argv[1:]):
        print(f"{__doc__}\nflags:\n{FLAGS.main_module_help()}")
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


if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
