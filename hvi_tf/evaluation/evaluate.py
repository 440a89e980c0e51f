"""Evaluates a run on its test split: per-image scores on disk, resumable."""

import io
import json
import pathlib
import time
import zipfile
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from hvi_tf import sampling, seeds
from hvi_tf import workdir as workdirs
from hvi_tf.config import Config
from hvi_tf.data import datasets, pipeline
from hvi_tf.errors import UserError
from hvi_tf.evaluation import log_likelihood
from hvi_tf.evaluation.log_likelihood import ImageScores, Plan
from hvi_tf.methods import METHODS, Method
from hvi_tf.models.vae import VAE
from hvi_tf.training.interrupts import Interrupted, StopRequest
from hvi_tf.training.progress import Progress
from hvi_tf.workdir import Workdir

SAVE_EVERY_SECONDS = 10.0


def estimator_row(config: Config) -> Method:
    """The row that bounds log p(x): the one that was trained, unless another was asked for."""
    name = config.evaluation.estimator
    return config.row if name == "auto" else METHODS[name]


class Counts(NamedTuple):
    """The counts of an evaluation as they are reported; 0 where there is nothing to draw."""

    M: int
    K: int
    L: int


def counts(config: Config) -> Counts:
    """The configured eval_M, eval_K and eval_L, where the estimator has a use for them."""
    e, row = config.evaluation, estimator_row(config)
    draws_psi = row.inverse in ("tau", "mixing")
    draws_zeta = config.method.prior == "hierarchical" and row.zeta != "psi_0"
    return Counts(e.eval_M, e.eval_K if draws_psi else 0, e.eval_L if draws_zeta else 0)


def make_plan(config: Config) -> Plan:
    """The plan for these counts."""
    M, K, L = counts(config)
    return log_likelihood.make_plan(M, sampling.psi_per_z(estimator_row(config), K, M), max(L, 1))


def scores_path(workdir: Workdir, config: Config) -> pathlib.Path:
    """Where the per-image scores of an evaluation lie."""
    M, K, L = counts(config)
    name = config.evaluation.estimator
    parts = ["test", *([] if name == "auto" else [name]), f"M{M}", f"K{K}", *([f"L{L}"] * (L > 0))]
    return workdir.evaluation / f"{'_'.join(parts)}.npz"


def evaluate(
    config: Config, model: VAE, test: np.ndarray, workdir: Workdir, step: int
) -> dict[str, Any]:
    """Scores the first `eval_images` test images and writes the summary.

    Continues where an interrupted evaluation of the same checkpoint stopped.

    Args:
        config: of the run, with the wanted evaluation settings.
        model: with the weights to be scored.
        test: `[N, D]`, uint8 0 to 255 or float32 0 to 1.
        workdir: where scores and summary go.
        step: the checkpoint's training step, part of the scores' identity.

    Returns:
        The summary, as stored in JSON beside the scores.

    Raises:
        Interrupted: after Ctrl-C or SIGTERM, with the finished images saved.
        UserError: if a score is not finite, or the disk is full.
    """
    plan = make_plan(config)
    jit_compile = config.training.jit_compile == "on"
    num_images = min(config.evaluation.eval_images, len(test))
    path, row = scores_path(workdir, config), estimator_row(config)
    identity = {
        "step": step,
        "seed": config.training.seed,
        "jit_compile": jit_compile,
        "estimator": row.name,
        "plan": plan._asdict(),
    }
    scores, seconds = _load(path, identity)
    x = pipeline.fixed_binarization(test, config.training.seed, seeds.Purpose.EVALUATE)
    score = log_likelihood.make_scorer(model.callables, row, plan, jit_compile)
    done = len(scores.log_likelihood)
    if done >= num_images:
        return _write_summary(config, scores, num_images, seconds, step, path)
    title = "evaluation " + " ".join(
        f"{name}={count}" for name, count in counts(config)._asdict().items() if count
    )
    progress = Progress(title, "image", num_images, done)
    started, saved = time.monotonic(), time.monotonic()
    with StopRequest() as stop:
        while done < num_images:
            # Batches begin at multiples of plan.images and are always full, so an
            # image's score does not depend on how many images are scored.
            batch = tf.gather(x, tf.range(done, done + plan.images) % len(test))
            new = score(batch, log_likelihood.image_seed(config.training.seed, done))
            new = ImageScores(*(s.numpy()[: len(test) - done] for s in new))
            _check_finite(new, done)
            scores = ImageScores(*map(np.concatenate, zip(scores, new, strict=True)))
            progress.update(
                min(len(scores.log_likelihood), num_images) - done,
                log_likelihood=float(np.mean(scores.log_likelihood)),
            )
            done = len(scores.log_likelihood)
            if (
                stop.requested
                or done >= num_images
                or time.monotonic() - saved > SAVE_EVERY_SECONDS
            ):
                saved = time.monotonic()
                _save(path, scores, identity, seconds + saved - started)
            if stop.requested and done < num_images:
                progress.close(log_likelihood=float(np.mean(scores.log_likelihood)))
                raise Interrupted
    seconds += time.monotonic() - started
    progress.close(log_likelihood=float(np.mean(scores.log_likelihood[:num_images])))
    return _write_summary(config, scores, num_images, seconds, step, path)


def _load(path: pathlib.Path, identity: dict[str, Any]) -> tuple[ImageScores, float]:
    """The scores of an interrupted evaluation, or none if it was another one."""
    empty = ImageScores(*(np.zeros(0, np.float32) for _ in ImageScores._fields))
    if not path.exists():
        return empty, 0.0
    try:
        with np.load(path) as file:
            if json.loads(str(file["identity"])) != identity:
                return empty, 0.0
            scores = ImageScores(*(file[name] for name in ImageScores._fields))
            return scores, float(file["seconds"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        print(f"warning: {path} is damaged ({error}); scoring all images anew")
        return empty, 0.0


def _save(path: pathlib.Path, scores: ImageScores, identity: dict, seconds: float) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, identity=json.dumps(identity), seconds=seconds, **scores._asdict())
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise workdirs.write_error(path, error) from error
    workdirs.write_atomically(path, buffer.getvalue())


def _check_finite(scores: ImageScores, first: int) -> None:
    for name, values in scores._asdict().items():
        if np.isnan(values).all() and name not in ("log_likelihood", "bound"):
            continue  # there is nothing to tell, such as a KL without psi
        if not np.isfinite(values).all():
            image = first + int(np.argmin(np.isfinite(values)))
            raise UserError(f"test image {image}: {name} is not finite; the model has diverged")


def _write_summary(
    config: Config,
    scores: ImageScores,
    num_images: int,
    seconds: float,
    step: int,
    path: pathlib.Path,
) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "dataset": datasets.describe(config.data.dataset, config.data.data_digest),
        "bound": config.method.bound,
        "estimator": estimator_row(config).name,
        "split": "test",
        "images": num_images,
        **counts(config)._asdict(),
        "step": step,
        "seconds": round(seconds, 1),
        "scores": str(path),
    }
    for name, values in scores._asdict().items():
        kept = values[:num_images].astype(np.float64)
        if np.isnan(kept).all():
            continue
        error = kept.std(ddof=1) / np.sqrt(num_images) if num_images > 1 else float("nan")
        summary[name] = {"mean": float(kept.mean()), "standard_error": float(error)}
    workdirs.write_json(path.with_name(f"{path.stem}_N{num_images}.json"), summary)
    return summary
