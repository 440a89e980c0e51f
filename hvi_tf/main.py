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
from typing import Any, NamedTuple

from absl import app, flags

from hvi_tf import cluster, command_line, startup
from hvi_tf import config as config_lib
from hvi_tf import workdir as workdirs
from hvi_tf.config import Config
from hvi_tf.data import datasets
from hvi_tf.errors import UserError
from hvi_tf.settings import DeviceConfig
from hvi_tf.startup import StartUp
from hvi_tf.workdir import Workdir

FLAGS = flags.FLAGS
MODES = ("train", "fit_tau", "evaluate", "export", "sample")


def _flag_fields() -> list[dataclasses.Field]:
    return [f for f in config_lib.fields() if f.metadata["help"]]


def _device_config() -> DeviceConfig:
    return DeviceConfig(**{f.name: FLAGS[f.name].value for f in dataclasses.fields(DeviceConfig)})


def _define_flags() -> None:
    for field in (*_flag_fields(), *dataclasses.fields(DeviceConfig)):
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


def _task(mode: str, writes: bool) -> _Task:
    if mode not in MODES:
        raise UserError(f"--mode={mode}: choose one of {', '.join(MODES)}")
    if mode == "train":
        config = config_lib.make(**_flag_values())
        datasets.check(config.data)
        path = pathlib.Path(FLAGS.workdir) if FLAGS.workdir else workdirs.new_path(config)
        if writes:
            workdirs.check_not_in_use(path)  # to say so now, not after TensorFlow has loaded
        return _Task(workdirs.reconcile(path, config), path, None)
    if not FLAGS.workdir:
        raise UserError(f"--mode={mode}: name the run's --workdir")
    run = workdirs.open_existing(pathlib.Path(FLAGS.workdir), writes)
    return _Task(run.config if mode == "fit_tau" else _config_of_run(run), run.path, run)


def _run(mode: str) -> None:
    # As the command, its process began with it.
    start_up = StartUp(startup.process_began() if __name__ == "__main__" else time.monotonic())
    member = cluster.check(FLAGS.strategy, FLAGS.replicas, FLAGS.workdir)
    task = _task(mode, writes=member.index == 0)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with startup.without_matplotlib():
        from hvi_tf import devices, distribution

    devices.configure(_device_config())
    if member.index:  # what worker 0 tells is enough
        sys.stdout = open(os.devnull, "w")
    with distribution.scope(FLAGS.strategy, FLAGS.replicas):
        if distribution.describe():
            print(f"Strategy: {FLAGS.strategy}, {distribution.describe()}", flush=True)
        _run_task(mode, task, start_up)
        distribution.barrier()  # or the others would be gone while the chief still writes


def _run_task(mode: str, task: _Task, start_up: StartUp) -> None:
    config, path, found = task
    with startup.without_matplotlib():
        from hvi_tf import devices, distribution, pictures
        from hvi_tf.evaluation import evaluate, summary
        from hvi_tf.export import export
        from hvi_tf.models.vae import make_vae
        from hvi_tf.training import fit_tau, runs

    start_up.lap("imports")
    if mode == "fit_tau":
        config = fit_tau.fit_config(config, _flag_values(only_given=True))
    with distribution.chief_first():  # who may have to prepare the data
        config, data = runs.with_data(config)
    described = datasets.describe(config.data.dataset, data.digest)
    if described != config.data.dataset:
        print(f"Data: {described}", flush=True)
    start_up.lap("data")
    if FLAGS.device_report:
        print(devices.report(config, distribution.current()), flush=True)
    x_dim = data.train.shape[1]
    trained = None
    if mode == "fit_tau":
        trained, step = fit_tau.load_trained(found, x_dim)
        path /= config_lib.fit_name(config, step)
        config = config_lib.with_frozen(config, step)
    model = make_vae(config, x_dim)
    if trained is not None:
        fit_tau.adopt(model, trained)
    if mode in ("evaluate", "export", "sample"):
        run = runs.at_best(config, data, model, found)
    else:  # nothing is written before here
        with distribution.chief_first():
            writes = distribution.is_chief()
            workdir = workdirs.create_or_open(path, config, writes)
        if mode == "train":
            FLAGS.workdir = str(path)
        print(f"Workdir: {path}", flush=True)
        run = runs.train(config, data, model, workdir, start_up)
    workdir = run.workdir
    chief = distribution.is_chief()
    if mode == "sample" and chief:
        image = workdir.path / f"samples_step{run.step}.png"
        pictures.sample(model, config.evaluation.num_samples, data.image_shape, image)
        print(f"{config.evaluation.num_samples} images: {image}")
    if mode not in ("sample", "evaluate") and chief:
        export(model, workdir.saved_model)
    if mode == "export":
        print(f"SavedModel of step {run.step}: {workdir.saved_model}")
    if mode in ("sample", "export"):
        return
    scores = evaluate.evaluate(config, model, data, workdir, run.step)
    print(summary.table(config, workdir, scores, run.training, time.monotonic() - start_up.began))


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

if __name__ == "__main__":
    app.run(main, flags_parser=_parse_flags)
