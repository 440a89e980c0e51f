"""The modes of the command line: train, fit_tau, evaluate, export and sample."""

import time
from typing import Any

from hvi_tf.cli.task import Task
from hvi_tf.config import identity
from hvi_tf.config.config import Config
from hvi_tf.data import datasets
from hvi_tf.data.datasets import Dataset
from hvi_tf.evaluation import evaluate, table
from hvi_tf.models import pictures
from hvi_tf.models.export import export
from hvi_tf.models.vae import make_vae
from hvi_tf.runtime import devices, replicas
from hvi_tf.runtime.progress import counted
from hvi_tf.runtime.startup import StartUp
from hvi_tf.storage import origins
from hvi_tf.storage import workdir as workdirs
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training import determinism, fit_tau, planning, runs
from hvi_tf.training.loop import TrainingResult
from hvi_tf.training.runs import Run


def run(task: Task, start_up: StartUp) -> None:
    """Runs a task and prints its results.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, when everything is saved.
        UserError: if the user can mend the error.
    """
    try:
        _run(task, start_up)
    finally:
        if task.run is not None:
            task.run.close()


def _run(task: Task, start_up: StartUp) -> None:
    """Loads the data and runs a task."""
    start_up.lap("imports")
    config = task.config
    if task.mode == "fit_tau":
        config = fit_tau.fit_config(config, task.given)
    with replicas.chief_first():  # the chief may have to prepare the data
        config, data = runs.with_data(config)
    described = datasets.describe(config.data.dataset, data.digest)
    if described != config.data.dataset:
        print(f"Data: {described}", flush=True)
    start_up.lap("data")
    if task.run is not None:
        origins.check_same_data(task.run.path, config)
    if task.device_report:
        print(devices.report(config, replicas.current()), flush=True)
    task = task._replace(config=config)
    if task.check_determinism:
        print(determinism.check(config, data))
    elif task.run is None or task.mode == "fit_tau":
        _train(task, data, start_up)
    elif task.saved_model is not None:  # the checkpoint is not read
        scores = evaluate.evaluate_saved_model(config, task.saved_model, data, task.run)
        _print_scores(config, task.run, scores, None, start_up)
    else:
        _use(task, task.run, data, start_up)


def _train(task: Task, data: Dataset, start_up: StartUp) -> None:
    """Trains, exports and evaluates a model."""
    config, path, x_dim = task.config, task.path, data.train.shape[1]
    trained = None
    if task.run is not None:  # fit_tau keeps the p and q of this run
        trained, step = fit_tau.load_trained(task.run, x_dim)
        path /= identity.fit_name(config, step)
        config = identity.with_frozen(config, step)
    model = make_vae(config, x_dim)
    if trained is not None:
        fit_tau.adopt(model, trained)
    if config.training.minutes and not (path / "config.json").exists():
        config = planning.plan(config, model, data)
    with replicas.chief_first():  # the workdir is first written here
        workdir = workdirs.create_or_open(path, config, writes=replicas.is_chief())
    print(f"Workdir: {path}", flush=True)
    try:
        run = runs.train_to_best(workdir.config, model, data, workdir, start_up)
        _export(run)
        _evaluate(run, start_up)
    finally:
        workdir.close()


def _use(task: Task, workdir: Workdir, data: Dataset, start_up: StartUp) -> None:
    """Evaluates or exports a trained run, or draws images from its model."""
    config, model = task.config, make_vae(task.config, data.train.shape[1])
    run = runs.at_best(config, model, data, workdir)
    if task.mode == "evaluate":
        _evaluate(run, start_up)
    elif task.mode == "export":
        _export(run)
        print(f"SavedModel of step {run.step}: {workdir.saved_model}")
    elif replicas.is_chief():
        count = config.evaluation.num_samples
        image = workdir.path / f"samples_step{run.step}_N{count}.png"
        pictures.sample(model, count, data.image_shape, image)
        print(f"{counted(count, 'image')}: {image}")


def _export(run: Run) -> None:
    """Exports the model into the workdir, in the chief alone."""
    if replicas.is_chief():
        run.workdir.check()
        export(run.model, run.workdir.saved_model)
        run.workdir.check()  # the folder may have been removed during the export


def _evaluate(run: Run, start_up: StartUp) -> None:
    """Evaluates a run and prints its scores."""
    scores = evaluate.evaluate(run.config, run.model, run.data, run.workdir, run.step)
    _print_scores(run.config, run.workdir, scores, run.training, start_up)


def _print_scores(
    config: Config,
    workdir: Workdir,
    scores: dict[str, Any],
    training: TrainingResult | None,
    start_up: StartUp,
) -> None:
    """Prints the table of an evaluation."""
    seconds = time.monotonic() - start_up.began
    print(table.render(config, workdir, scores, training, seconds))
