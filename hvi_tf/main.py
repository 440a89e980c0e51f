"""The command line: flags -> Config -> train -> evaluate -> export.

    python -m hvi_tf.main --dataset=mnist --bound=iwhvi --K=50

TensorFlow is imported only once the flags are known to be good.
"""

import os
import pathlib
import re
import shlex
import sys
import time
import typing

from absl import app, flags, logging

from hvi_tf import config as config_lib
from hvi_tf import workdir as workdirs
from hvi_tf.config import Config
from hvi_tf.data import datasets
from hvi_tf.errors import UserError
from hvi_tf.training.interrupts import Interrupted
from hvi_tf.workdir import Workdir

FLAGS = flags.FLAGS
MODES = ("train", "evaluate", "export")


def _define_flags() -> None:
    for field in config_lib.fields():
        text = field.metadata["help"]
        kinds = typing.get_args(field.type) or (field.type,)
        if field.name == "hidden":
            flags.DEFINE_list(field.name, list(map(str, config_lib.ModelConfig().hidden)), text)
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
        "train (then evaluates and exports), or evaluate or export a trained --workdir.",
    )


_define_flags()


def _config_from_flags() -> Config:
    values = {f.name: FLAGS[f.name].value for f in config_lib.fields()}
    return config_lib.make(**values | {"hidden": _hidden(values["hidden"])})


def _hidden(texts: list[str]) -> tuple[int, ...]:
    try:
        return tuple(map(int, texts))
    except ValueError:
        raise UserError(
            f"--hidden={','.join(texts)}: must be whole numbers, such as 300,300"
        ) from None


def _config_of_run(workdir: Workdir) -> Config:
    """The run's own configuration; flags only say where data lie and what to evaluate."""
    stored = config_lib.flatten(workdir.config)
    given = {f.name: FLAGS[f.name].value for f in config_lib.fields() if FLAGS[f.name].present}
    if "hidden" in given:
        given["hidden"] = _hidden(given["hidden"])
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


def _open_run(mode: str) -> tuple[pathlib.Path, Config, Workdir | None]:
    """What is asked for: the run's folder, its configuration, and an existing run opened."""
    if mode not in MODES:
        raise UserError(f"--mode={mode}: choose one of {', '.join(MODES)}")
    if mode == "train":
        config = _config_from_flags()
        datasets.check_name(config.data.dataset)
        path = pathlib.Path(FLAGS.workdir) if FLAGS.workdir else workdirs.new_path(config)
        workdirs.check_not_in_use(path)  # to say so now, not after TensorFlow has loaded
        return path, workdirs.reconcile(path, config), None
    if not FLAGS.workdir:
        raise UserError(f"--mode={mode}: name the run's --workdir")
    workdir = workdirs.open_existing(pathlib.Path(FLAGS.workdir))
    return workdir.path, _config_of_run(workdir), workdir


def _run(mode: str) -> None:
    started = time.monotonic()
    path, config, workdir = _open_run(mode)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    from hvi_tf.evaluation import evaluate, summary
    from hvi_tf.export import export
    from hvi_tf.models.vae import make_vae
    from hvi_tf.training import loop
    from hvi_tf.training.checkpoints import Checkpoints

    config = config_lib.resolve_jit(config, bool(tf.config.list_physical_devices("GPU")))
    data = datasets.load(config.data)
    loop.check_batch_size(config, data)
    model = make_vae(config, x_dim=data.train.shape[1])
    training = None
    if workdir is None:  # nothing is written before here
        workdir = workdirs.create_or_open(path, config)
        FLAGS.workdir = str(path)
        print(f"Workdir: {path}", flush=True)
        training = loop.train(config, model, data, workdir)
    step = Checkpoints(model, workdir).restore_best()
    if mode != "evaluate":
        export(model, workdir.saved_model)
    if mode == "export":
        print(f"SavedModel of step {step}: {workdir.saved_model}")
        return
    scores = evaluate.evaluate(config, model, data.test, workdir, step)
    print(summary.table(config, workdir, scores, training, time.monotonic() - started))


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
