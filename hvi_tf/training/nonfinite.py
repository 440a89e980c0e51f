"""The diagnosis of a training step that is not finite, by term and image.

A step is a pure function of its weights, its images and its seed, so a dump of these reproduces
it. If the update made the weights non-finite, the dump holds those, because the weights before
the update are lost.
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
from hvi_tf.runtime import replicas
from hvi_tf.storage import files, npz
from hvi_tf.storage.workdir import Workdir

MAX_DUMPS = 5  # per run, because each holds all weights
LISTED = 20  # images in the JSON file

# (term, slice of its draws of psi), in the order of computation. A term that is not finite makes
# later ones non-finite too, so the first one is the cause; psi_0 comes before psi_1:K.
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
    """The inputs of a training step's densities, except the weights."""

    number: int  # from 1
    x: tf.Tensor  # [B, D], as observed
    rows: np.ndarray  # [B], of the training images
    schedule: ScheduleValues


class Finding(NamedTuple):
    """The first term that is not finite, and its images."""

    term: str  # a field of LogDensities, or a metric
    value: float
    images: np.ndarray  # positions in the batch; empty if the term belongs to no single image
    of_weights: bool = False  # whether the step's update made a weight non-finite

    def __str__(self) -> str:
        return f"{self.term} is {self.value}"


def first_term(log_densities: LogDensities) -> Finding | None:
    """Returns the first term that is not finite, in the order of computation."""
    for name, draws in _ORDER:
        values = getattr(log_densities, name).numpy()[draws]
        bad = ~np.isfinite(values)
        if bad.any():
            images = np.flatnonzero(bad.reshape(-1, bad.shape[-1]).any(axis=0))
            return Finding(name, float(values[bad][0]), images)
    return None


def examine(model: VAE, step: Step, metrics: dict[str, float]) -> Finding:
    """Returns the cause of metrics that are not all finite.

    Args:
        model: the model with the weights before the step, or after it if the update was at
            fault.
        step: the step to examine.
        metrics: the step's metrics.
    """
    bad = [name for name, value in metrics.items() if not np.isfinite(value)]
    if bad == [_NORM]:
        return of_weights(model)
    metric = Finding(bad[0], metrics[bad[0]], np.zeros(0, int))
    return first_term(densities(model, step)) or metric


_NORM = "weight_norm"  # the one metric of the weights after the step


def of_weights(model: VAE) -> Finding:
    """Returns the first weight that is not finite, or their norm if each weight is finite."""
    for name, variable in model.weights_by_name.items():
        values = variable.numpy()
        if not np.isfinite(values).all():
            value = float(values[~np.isfinite(values)][0])
            return Finding(f"the weight {name}", value, np.zeros(0, int), of_weights=True)
    return Finding(_NORM, math.inf, np.zeros(0, int), of_weights=True)


def densities(model: VAE, step: Step) -> LogDensities:
    """Returns the log-densities of a step, drawn again with its seed."""
    seed = randomness.fold(model.seed, randomness.Purpose.TRAIN, step.number - 1)
    return model.first_densities(step.x, seed, step.schedule.K)


def dump(model: VAE, step: Step, finding: Finding, workdir: Workdir) -> str:
    """Writes the inputs of a step to the workdir; returns a phrase with the path, or the reason.

    `step_N.json` holds the term, the numbers of its training images and the seed.
    `step_N.npz` also holds the observed images and the weights, for `replay`.
    """
    folder = workdir.path / "nonfinite"
    path = folder / f"step_{step.number}.npz"
    others = {p.name for p in folder.glob("step_*.npz")} - {path.name}
    if len(others) >= MAX_DUMPS:
        return f"not dumped: {folder} has {MAX_DUMPS}"
    if replicas.is_chief():
        try:
            folder.mkdir(exist_ok=True)
            _write(path, model, step, finding)
        except (OSError, UserError) as error:  # the caller still reports the step
            return f"not dumped: {error}"
    return f"dumped as {path}"


def _write(path: pathlib.Path, model: VAE, step: Step, finding: Finding) -> None:
    metadata: dict[str, Any] = {
        "step": step.number,
        "term": finding.term,
        "value": str(finding.value),
        "training_images": step.rows[finding.images][:LISTED].tolist(),
        "images_in_all": len(finding.images),
        "seed": model.seed,
        "schedule": step.schedule._asdict(),
    }
    files.write_json(path.with_suffix(".json"), metadata)
    weights = {f"weight/{name}": v.numpy() for name, v in model.weights_by_name.items()}
    arrays = {"x": step.x.numpy(), "rows": step.rows, "number": step.number}
    arrays["of_weights"] = finding.of_weights
    npz.write_arrays(path, arrays | {"schedule": np.array(step.schedule, float)} | weights)
