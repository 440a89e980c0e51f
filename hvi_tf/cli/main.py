"""The command line: flags -> Config -> train -> evaluate -> export.

    python -m hvi_tf.main --dataset=mnist --bound=iwhvi --K=50

TensorFlow is imported only once the flags are known to be good.
"""

import dataclasses
import os
import pathlib
import shlex
import sys
import time
from typing import Any

from absl import flags

from hvi_tf.cli import exits as command_line
from hvi_tf.cli.task import Task
from hvi_tf.config import config as config_lib
from hvi_tf.config import identity, relevance
from hvi_tf.config import rules as validation
from hvi_tf.config.config import Config
from hvi_tf.config.settings import DeviceConfig, SavedModelConfig
from hvi_tf.data import datasets
from hvi_tf.errors import UserError
from hvi_tf.evaluation import saved_model as saved_models
from hvi_tf.runtime import cluster, startup
from hvi_tf.runtime.startup import StartUp
from hvi_tf.storage import workdir as workdirs
from hvi_tf.storage.workdir import Workdir

FLAGS = flags.FLAGS
MODES = ("train", "fit_tau", "evaluate", "export", "sample")


def _flag_fields() -> list[dataclasses.Field]:
    return [f for f in config_lib.fields() if f.metadata["help"]]


# Flags that are no settings of a run: what a config.json may never say.
_OF_A_COMMAND = (DeviceConfig, SavedModelConfig)


def _of_command(kind: type) -> Any:
    return kind(**{f.name: FLAGS[f.name].value for f in dataclasses.fields(kind)})


def _define_flags() -> None:
    of_command = [f for kind in _OF_A_COMMAND for f in dataclasses.fields(kind)]
    for field in (*_flag_fields(), *of_command):
        text = field.metadata["help"]
        kind = config_lib.kind(field)
        if kind is tuple:
            flags.DEFINE_list(field.name, [str(n) for n in field.default], text)  # type: ignore
        elif kind is bool:
            flags.DEFINE_boolean(field.name, field.default, text)
        elif kind is int:
            flags.DEFINE_integer(field.name, field.default, text)
        elif kind is float:
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
    flags.DEFINE_string(
        "strategy",
        "one",
        "Devices that share each batch, and the images to be scored: one; mirrored = all GPUs of "
        "this machine; multiworker = the processes that TF_CONFIG or Slurm names. No part of a "
        "run: it may be resumed by another.",
    )
    flags.DEFINE_integer(
        "replicas",
        0,
        "Devices of --strategy=mirrored: GPUs, or parts of the CPU where there is none. 0: all "
        "GPUs.",
        lower_bound=0,
        upper_bound=1_024,
    )
    flags.DEFINE_boolean(
        "check_determinism",
        False,
        "Trains ten steps twice in place of the run, and says whether they are the same bit for "
        "bit. Writes nothing.",
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
    """The run's own configuration; flags only name its data and what to evaluate."""
    stored = config_lib.flatten(workdir.config)
    given = _flag_values(only_given=True)
    if "estimator" in given:
        del stored["eval_steps"]  # which belongs to the stored estimator
    if given.get("jit_compile") == "auto":
        del given["jit_compile"]
    build = config_lib.for_saved_model if FLAGS.saved_model else config_lib.derive
    asked = build(stored, **given)
    changes = identity.differences(workdir.config, asked)
    if changes:
        raise UserError(
            f"--workdir={workdir.path} holds another run: {'; '.join(changes)}; "
            f"--mode={FLAGS.mode} takes the run's own settings, leave these out"
        )
    relevance.check_mode(FLAGS.mode, given, config_lib.flatten(workdir.config))
    return asked


def _workdir_path() -> pathlib.Path:
    """The folder of --workdir, which need not be there."""
    path = validation.local_path("--workdir", FLAGS.workdir)
    try:
        (path / "config.json").exists()
    except OSError as error:  # such as a name that is too long, or a folder closed to this user
        raise UserError(
            f"--workdir={path}: cannot be looked into ({error.strerror}); name another"
        ) from error
    return path


def _task(mode: str, writes: bool) -> Task:
    if mode not in MODES:
        raise UserError(f"--mode={mode}: choose one of {', '.join(MODES)}")
    given = _flag_values(only_given=True)
    asked = _of_command(SavedModelConfig)
    validation.check_saved_model(asked, mode, FLAGS.strategy, given)
    switches = dict(device_report=FLAGS.device_report, check_determinism=FLAGS.check_determinism)
    if mode == "train":
        relevance.check_mode(mode, given, config_lib.defaults())
        config = config_lib.make(**_flag_values())
        datasets.check(config.data)
        path = _workdir_path() if FLAGS.workdir else workdirs.new_path(config)
        if FLAGS.check_determinism:
            return Task(mode, config, path, None, given, **switches)
        if writes:
            workdirs.check_not_in_use(path)  # to say so now, not after TensorFlow has loaded
        FLAGS.workdir = str(path)  # for the command that goes on with it
        return Task(mode, workdirs.reconcile(path, config), path, None, given, **switches)
    if FLAGS.check_determinism:
        raise UserError(f"--check_determinism: for --mode=train, not --mode={mode}")
    if not FLAGS.workdir:
        raise UserError(f"--mode={mode}: name the run's --workdir")
    run = workdirs.open_existing(_workdir_path(), writes)
    saved_model = saved_models.find(asked, run.path) if asked.saved_model else None
    config = run.config if mode == "fit_tau" else _config_of_run(run)
    return Task(mode, config, run.path, run, given, saved_model, **switches)


def _run(mode: str) -> None:
    # As the command, its process began with it.
    start_up = StartUp(startup.process_began() if __name__ == "__main__" else time.monotonic())
    member = cluster.check(FLAGS.strategy, FLAGS.replicas, FLAGS.workdir)
    task = _task(mode, writes=member.index == 0)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with startup.without_matplotlib():
        startup.check_keras_backend()
        startup.check_keras_dtype()
        from hvi_tf.cli import modes as commands
        from hvi_tf.runtime import devices
        from hvi_tf.runtime import replicas as distribution

    devices.configure(_of_command(DeviceConfig))
    if member.index:  # what worker 0 tells is enough
        sys.stdout = open(os.devnull, "w")
    with distribution.scope(FLAGS.strategy, FLAGS.replicas):
        if distribution.describe():
            print(f"Strategy: {FLAGS.strategy}, {distribution.describe()}", flush=True)
        commands.run(task, start_up)
        distribution.barrier()  # or the others would be gone while the chief still writes


def _same_command() -> str:
    """The command that goes on with an interrupted one."""
    if FLAGS.strategy == "multiworker":
        return "the command that started the workers"
    arguments = sys.argv[1:]
    if FLAGS.workdir and not FLAGS["workdir"].present:  # chosen by this program
        arguments = [*arguments, f"--workdir={FLAGS.workdir}"]
    return shlex.join(["python", "-m", "hvi_tf.main", *arguments])


def main(argv: list[str]) -> None:
    """Runs the mode that the flags name."""

    def command() -> None:
        if len(argv) > 1:
            raise UserError(f"{argv[1]}: not a flag; flags look like --name=value")
        _run(FLAGS.mode)

    command_line.run(command, _same_command)


_parse_flags = command_line.flags_parser(__doc__)
