"""Trains and evaluates a hierarchical variational autoencoder.

    python -m hvi_tf.main --dataset=mnist --bound=iwhvi --K=50

Trains, evaluates and exports a model; --mode selects one of these, or another task.
"""

import pathlib
import shlex
import sys
import time

from absl import flags

from hvi_tf.cli import exits
from hvi_tf.cli import flags as setting_flags
from hvi_tf.cli.task import Task
from hvi_tf.config import config as config_lib
from hvi_tf.config import identity, relevance, rules
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

setting_flags.define()
flags.adopt_module_key_flags(setting_flags)


def _config_of_run(workdir: Workdir) -> Config:
    """Returns the configuration of the run; flags only change its data and its evaluation."""
    stored = config_lib.flatten(workdir.config)
    given = setting_flags.values(only_given=True)
    if "estimator" in given:
        del stored["eval_steps"]  # belongs to the stored estimator
    if given.get("jit_compile") == "auto":
        del given["jit_compile"]
    build = config_lib.for_saved_model if FLAGS.saved_model else config_lib.derive
    asked = build(stored, **given)
    changes = identity.differences(workdir.config, asked)
    if changes:
        raise UserError(
            f"--workdir={workdir.path} holds another run: {'; '.join(changes)}; "
            f"--mode={FLAGS.mode} takes the settings of the run; leave these out"
        )
    relevance.check_mode(FLAGS.mode, given, config_lib.flatten(workdir.config))
    return asked


def _workdir_path() -> pathlib.Path:
    """Returns the folder of --workdir, which may not exist yet."""
    path = rules.local_path("--workdir", FLAGS.workdir)
    try:
        (path / "config.json").exists()
    except OSError as error:  # such as a name that is too long, or a folder without permission
        raise UserError(
            f"--workdir={path}: cannot be read ({error.strerror}); name another"
        ) from error
    return path


def _task(mode: str, writes: bool) -> Task:
    """Returns the task that the flags describe.

    Args:
        mode: the command's mode.
        writes: whether this process writes into the workdir.

    Raises:
        UserError: if a flag is wrong, or does not fit the run in the workdir.
    """
    if mode not in MODES:
        raise UserError(f"--mode={mode}: choose one of {', '.join(MODES)}")
    given = setting_flags.values(only_given=True)
    asked = setting_flags.of_section(SavedModelConfig)
    rules.check_saved_model(asked, mode, FLAGS.strategy, given)
    switches = dict(device_report=FLAGS.device_report, check_determinism=FLAGS.check_determinism)
    if mode == "train":
        relevance.check_mode(mode, given, config_lib.defaults())
        config = config_lib.make(**setting_flags.values())
        datasets.check(config.data)
        path = _workdir_path() if FLAGS.workdir else workdirs.new_path(config)
        if FLAGS.check_determinism:
            return Task(mode, config, path, None, given, **switches)
        if writes:
            workdirs.check_not_in_use(path)  # before TensorFlow loads, which takes seconds
        return Task(mode, workdirs.reconcile(path, config), path, None, given, **switches)
    if FLAGS.check_determinism:
        raise UserError(f"--check_determinism: for --mode=train, not --mode={mode}")
    if not FLAGS.workdir:
        raise UserError(f"--mode={mode}: name the run's --workdir")
    run = workdirs.open_existing(_workdir_path(), writes)
    saved_model = saved_models.find(asked, run.path) if asked.saved_model else None
    config = run.config if mode == "fit_tau" else _config_of_run(run)
    return Task(mode, config, run.path, run, given, saved_model, **switches)


class _Command:
    """One command, with the workdir that it has chosen for a new run."""

    def __init__(self, arguments: list[str], began: float) -> None:
        self._arguments, self._began = arguments, began
        self._workdir: pathlib.Path | None = None

    def __call__(self) -> None:
        """Runs the mode that the flags name."""
        if self._arguments:
            raise UserError(f"{self._arguments[0]}: not a flag; flags look like --name=value")
        start_up = StartUp(self._began)
        member = cluster.check(FLAGS.strategy, FLAGS.replicas, FLAGS.workdir)
        task = _task(FLAGS.mode, writes=member.index == 0)
        if not task.check_determinism:
            self._workdir = task.path

        with startup.without_matplotlib():
            startup.quiet_tensorflow(FLAGS.debug)
            startup.check_keras_backend()
            startup.check_keras_dtype()
            from hvi_tf.cli import modes
            from hvi_tf.runtime import devices, replicas

        devices.configure(setting_flags.of_section(DeviceConfig))
        if member.index:  # the output of worker 0 is enough
            exits.silence_stdout()
        with replicas.scope(FLAGS.strategy, FLAGS.replicas):
            if replicas.describe():
                print(f"Strategy: {FLAGS.strategy}, {replicas.describe()}", flush=True)
            modes.run(task, start_up)
            replicas.barrier()  # otherwise the others could exit while the chief still writes

    def again(self) -> str:
        """Returns the command that resumes this one."""
        if FLAGS.strategy == "multiworker":
            return "the command that started the workers"
        arguments = sys.argv[1:]
        if self._workdir is not None and not FLAGS.workdir:
            arguments = [*arguments, f"--workdir={self._workdir}"]
        return shlex.join(["python", "-m", "hvi_tf.main", *arguments])


def main(argv: list[str]) -> None:
    """Runs the mode that the flags name, in a process that may run other commands too."""
    _run(argv, time.monotonic())


def main_of_process(argv: list[str]) -> None:
    """Runs the mode that the flags name, in a process that began for it."""
    _run(argv, startup.process_began())


def _run(argv: list[str], began: float) -> None:
    command = _Command(argv[1:], began)
    exits.run(command, command.again)


def console() -> None:
    """Runs this process as the command; `hvi` and `python -m hvi_tf.main` begin here."""
    exits.start(main_of_process, __doc__)


_parse_flags = exits.flags_parser(__doc__, __name__)
