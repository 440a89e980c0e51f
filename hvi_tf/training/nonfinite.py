"""A training step that is not finite: which term, of which images, and what shows it again.

A step is a pure function of its weights, its images and its seed; these are what is dumped.
Where it is its update that has spoiled the weights, those of before are gone, and the dump has
the spoiled ones.
"""

import math
import pathlib
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.bounds import LogDensities
from hvi_tf.config.schedules import ScheduleValues
from hvi_tf.errors import UserError
from hvi_tf.models.vae import VAE
from hvi_tf.runtime import replicas as distribution
from hvi_tf.storage import files
from hvi_tf.storage.workdir import Workdir

MAX_DUMPS = 5  # of a run: each holds all weights
LISTED = 20  # images in the JSON file

# What is drawn and scored first comes first, for it spoils what comes later: (term, which
# of its draws of psi). What psi_0 spoils is not the fault of psi_1:K.
_ORDER = (
    ("log_q_psi", slice(0, 1)),
    ("log_q_z", slice(0, 1)),
    ("log_prior", slice(None)),
    ("log_likelihood", slice(None)),
    ("log_tau", slice(0, 1)),
    ("log_tau", slice(1, None)),
    ("log_q_psi", slice(1, None)),
    ("log_q_z", slice(1, None)),
)


class Step(NamedTuple):
    """All that the densities of a training step are a function of, beside the weights."""

    number: int  # from 1
    x: tf.Tensor  # [B, D], as observed
    rows: np.ndarray  # [B], of the training images
    schedule: ScheduleValues


class Finding(NamedTuple):
    """The first term that is not finite, and where."""

    term: str  # a field of LogDensities, or a metric
    value: float
    images: np.ndarray  # positions in the batch; none where the term is of all images
    of_weights: bool = False  # that the step itself has spoiled

    def __str__(self) -> str:
        return f"{self.term} is {self.value}"


def first_term(found: LogDensities) -> Finding | None:
    """The first term that is not finite, in the order in which one spoils the next."""
    for name, draws in _ORDER:
        values = getattr(found, name).numpy()[draws]
        bad = ~np.isfinite(values)
        if bad.any():
            images = np.flatnonzero(bad.reshape(-1, bad.shape[-1]).any(axis=0))
            return Finding(name, float(values[bad][0]), images)
    return None


def examine(model: VAE, step: Step, metrics: dict[str, float]) -> Finding:
    """What it was about a step whose metrics are not all finite.

    Args:
        model: with the weights of that step, unless its update has spoiled them.
        step: the one to look into.
        metrics: what it reported.
    """
    bad = [name for name, value in metrics.items() if not np.isfinite(value)]
    if bad == [_NORM]:
        return of_weights(model)
    other = Finding(bad[0], metrics[bad[0]], np.zeros(0, int))
    return first_term(densities(model, step)) or other


_NORM = "weight_norm"  # the one metric of the weights after the step


def of_weights(model: VAE) -> Finding:
    """What it is about weights that an update has spoiled; their norm, if each is finite."""
    for name, variable in model.weights_by_name.items():
        values = variable.numpy()
        if not np.isfinite(values).all():
            value = float(values[~np.isfinite(values)][0])
            return Finding(f"the weight {name}", value, np.zeros(0, int), of_weights=True)
    return Finding(_NORM, math.inf, np.zeros(0, int), of_weights=True)


def densities(model: VAE, step: Step) -> LogDensities:
    """What a step drew, drawn again."""
    seed = randomness.fold(model.seed, randomness.Purpose.TRAIN, step.number - 1)
    return model.first_densities(step.x, seed, step.schedule.K)


def dump(model: VAE, step: Step, finding: Finding, workdir: Workdir) -> str:
    """Leaves in the workdir what shows the step again; returns a phrase that says where.

    `step_N.json` is for the eye: the term, the numbers of its training images, the seed.
    `step_N.npz` also has the observed images and the weights.
    """
    folder = workdir.path / "nonfinite"
    path = folder / f"step_{step.number}.npz"
    others = {p.name for p in folder.glob("step_*.npz")} - {path.name}
    if len(others) >= MAX_DUMPS:
        return f"not dumped: {folder} has {MAX_DUMPS}"
    if distribution.is_chief():
        try:
            folder.mkdir(exist_ok=True)
            _write(path, model, step, finding)
        except (OSError, UserError) as error:  # what was found is to be told all the same
            return f"not dumped: {error}"
    return f"dumped as {path}"


def _write(path: pathlib.Path, model: VAE, step: Step, finding: Finding) -> None:
    about: dict[str, Any] = {
        "step": step.number,
        "term": finding.term,
        "value": str(finding.value),
        "training_images": step.rows[finding.images][:LISTED].tolist(),
        "images_in_all": len(finding.images),
        "seed": model.seed,
        "schedule": step.schedule._asdict(),
    }
    files.write_json(path.with_suffix(".json"), about)
    weights = {f"weight/{name}": v.numpy() for name, v in model.weights_by_name.items()}
    arrays = {"x": step.x.numpy(), "rows": step.rows, "number": step.number}
    arrays["of_weights"] = finding.of_weights
    files.write_arrays(path, arrays | {"schedule": np.array(step.schedule, float)} | weights)
