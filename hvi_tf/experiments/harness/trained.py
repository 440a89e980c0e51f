"""Trained autoencoders that experiments share.

The folder of a run is named after its settings, so two experiments that need the same model train
it once. It is an ordinary run: `python -m hvi_tf.main --workdir=...` evaluates it, TensorBoard
shows it, and an interrupted training resumes.
"""

import contextlib
import hashlib
import importlib.resources
import json
import pathlib
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hvi_tf import randomness
from hvi_tf.config import config as config_lib
from hvi_tf.config import identity
from hvi_tf.config.config import Config
from hvi_tf.config.settings import EvaluationConfig, field_names
from hvi_tf.data import pipeline
from hvi_tf.data.datasets import Dataset
from hvi_tf.evaluation import evaluate
from hvi_tf.experiments.harness.experiment import Context, Settings
from hvi_tf.experiments.harness.rows import Row, row, row_of_mean
from hvi_tf.models.pictures import write_grid
from hvi_tf.models.vae import VAE, make_vae
from hvi_tf.storage import files, locks, npz
from hvi_tf.storage import workdir as workdirs
from hvi_tf.storage.workdir import Workdir
from hvi_tf.training import fit_tau as fit
from hvi_tf.training import runs
from hvi_tf.training.runs import Run

GRID = 8  # images per side of a grid
# A link to the folder flags/ at the root of the repository; an installed package holds a copy.
_FLAGFILES = importlib.resources.files("hvi_tf.experiments.harness") / "flagfiles"


def recipe(flagfile: str, **changes: Any) -> Settings:
    """Returns the settings of a published recipe, `flags/<flagfile>.cfg`, with some changed.

    Settings of the evaluation are left out, because experiments have their own.
    """
    with importlib.resources.as_file(_FLAGFILES / f"{flagfile}.cfg") as path:
        text = files.read_text(path)
    settings: Settings = {}
    evaluation = field_names(EvaluationConfig)
    for line in text.splitlines():
        if line.startswith("--"):
            name, _, value = line[2:].partition("=")
            if name not in evaluation:
                settings[name] = config_lib.parse(name, value)
    return settings | changes


def train(context: Context, settings: Settings) -> Run:
    """Returns the run of these settings, and trains it unless that is done.

    Waits for another process that trains the same run.

    Args:
        context: of the cell.
        settings: flags of `hvi_tf.main` without their dashes.

    Raises:
        UserError: as `hvi_tf.main` would print.
        Interrupted: after Ctrl-C or SIGTERM, with a checkpoint saved.
    """
    path = context.runs / run_name(settings)
    config, data = _with_data(context, settings, path)
    return _train(config, make_vae(config, data.train.shape[1]), data, path)


def _with_data(context: Context, settings: Settings, path: pathlib.Path) -> tuple[Config, Dataset]:
    config = config_lib.make(**settings, data_dir=context.data_dir, manual_dir=context.manual_dir)
    # A run resumes with XLA or without it, as it began, whatever this machine would choose.
    return runs.with_data(workdirs.reconcile(path, config))


def fit_tau(run: Run, epochs: int, K: int, **settings: Any) -> Run:
    """Returns the same model with a new tau fitted to it (Sobolev & Vetrov 2019, section 6.2)."""
    config = fit.fit_config(run.config, {"tau_epochs": epochs, "K": K, **settings})
    config = identity.with_frozen(config, run.step)
    model = make_vae(config, run.data.train.shape[1])
    fit.adopt(model, run.model)
    path = run.workdir.path / identity.fit_name(config, run.step)
    return _train(config, model, run.data, path)


def _train(config: Config, model: VAE, data: Dataset, path: pathlib.Path) -> Run:
    with contextlib.closing(_open(path, config)) as workdir:
        return runs.train_to_best(config, model, data, workdir)


def _open(path: pathlib.Path, config: Config) -> Workdir:
    waiting = False
    while True:
        try:
            return workdirs.create_or_open(path, config)
        except locks.InUseError:
            if not waiting:
                print(f"Waiting for another process that trains {path}", flush=True)
            waiting = True
            time.sleep(2.0)


def best_validation_bound(context: Context, settings: Settings) -> float:
    """Returns the best validation bound of a run, and trains it if necessary."""
    folder = context.runs / run_name(settings)
    path = folder / "best_validation_bound.json"
    if path.exists():
        _with_data(context, settings, folder)  # records the data in the provenance of the cell
    else:
        run = train(context, settings)
        best = max(r["value"] for r in learning_curve(run, ""))
        files.write_json(path, best)
    return files.read_json(path)


def run_name(settings: Settings) -> str:
    """Returns a readable and unique name for the folder of a run."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    known = ("dataset", "bound", "posterior", "K", "M", "svi_steps", "gradient")
    named = [f"{settings[name]}" for name in ("dataset", "bound") if name in settings]
    named += [f"{n}{settings[n]}" for n in known[2:] if n in settings]
    return "-".join([*named, f"seed{settings.get('seed', 0)}", digest[:8]])


def score(run: Run, **settings: Any) -> dict[str, Any]:
    """Returns the summary of an evaluation, which `hvi_tf.main --mode=evaluate` also stores.

    Args:
        run: the run to score.
        **settings: flags of the evaluation that apply to the run; others keep their defaults.
    """
    fields = field_names(EvaluationConfig)
    kept = {n: v for n, v in config_lib.flatten(run.config).items() if n not in fields}
    config = config_lib.derive(kept | settings)
    return evaluate.evaluate(config, run.model, run.data, run.workdir, run.step)


def score_rows(
    scores: dict[str, Any], method: str, quantities: Iterable[str], **where: Any
) -> list[Row]:
    """Returns rows of the mean scores of a summary, with their errors over images."""
    where |= dict(images=scores["images"], data=scores["dataset"])
    return [
        row(
            method,
            name,
            scores[name]["mean"],
            error=scores[name]["standard_error"],
            seconds=scores["seconds"],
            **where,
        )
        for name in quantities
        if name in scores
    ]


def scores_by_image(scores: dict[str, Any], name: str) -> np.ndarray:
    """Returns one of the scores that a summary averages, for each image `[N]`."""
    (values,) = npz.read_arrays(pathlib.Path(scores["scores"]), [name]).values()
    return values[: scores["images"]].astype(np.float64)


def gain_row(
    method: str,
    quantity: str,
    scores: dict[str, Any],
    others: dict[str, Any],
    name: str = "log_likelihood",
    **where: Any,
) -> Row:
    """Returns the row of one run's scores less another's, paired by image.

    Both runs must have the same seed, because the seed determines the observed pixels.
    """
    gain = scores_by_image(scores, name) - scores_by_image(others, name)
    return row_of_mean(method, quantity, gain, images=len(gain), **where)


def test_images(run: Run, count: int) -> tf.Tensor:
    """Returns the first test images `[count, D]`, as every run with this seed observes them."""
    likelihood, seed = run.config.model.likelihood, run.config.training.seed
    purpose = randomness.Purpose.EVALUATE
    return pipeline.fixed_observation(run.data.test, likelihood, seed, purpose)[:count]


def learning_curve(run: Run, method: str, **where: Any) -> list[Row]:
    """Returns the validation bound after every epoch, as rows with the training step."""
    files.check_regular(run.workdir.tensorboard.glob("*tfevents*"))
    events = EventAccumulator(str(run.workdir.tensorboard), size_guidance={"tensors": 0})
    events.Reload()
    points = {
        e.step: float(tf.make_ndarray(e.tensor_proto)) for e in events.Tensors("validation/bound")
    }
    return [
        row(method, "validation_bound", value, step=step, **where)
        for step, value in sorted(points.items())
    ]


def draw_pictures(run: Run, context: Context, name: str) -> None:
    """Writes grids of samples, and of test images next to their reconstructions."""
    side = GRID // 2 if run.model.autoregressive else GRID
    seed = randomness.fold(run.model.seed, randomness.Purpose.SAMPLE_IMAGES)
    x = test_images(run, side * side // 2)
    pairs = tf.stack([x, run.model.reconstruct(x, seed)], axis=1)
    grids = {
        "samples": run.model.sample_images(side * side, seed),
        "reconstructions": tf.reshape(pairs, [-1, run.model.x_dim]),
    }
    context.pictures.mkdir(parents=True, exist_ok=True)
    for kind, images in grids.items():
        write_grid(images.numpy(), run.data.image_shape, context.pictures / f"{name}_{kind}.png")
