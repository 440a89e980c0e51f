"""Evaluates a run on its test split: per-image scores on disk, resumable."""

import io
import json
import pathlib
import time
import zipfile
from typing import Any

import numpy as np
import tensorflow as tf

from hvi_tf import seeds
from hvi_tf import workdir as workdirs
from hvi_tf.config import Config
from hvi_tf.data import pipeline
from hvi_tf.errors import UserError
from hvi_tf.evaluation import log_likelihood
from hvi_tf.evaluation.log_likelihood import ImageScores, Plan
from hvi_tf.models.vae import VAE
from hvi_tf.training.interrupts import Interrupted, StopRequest
from hvi_tf.training.progress import Progress
from hvi_tf.workdir import Workdir

SAVE_EVERY_SECONDS = 10.0


def make_plan(config: Config) -> Plan:
    """The plan for the configured eval_M and eval_K; an explicit q(z|x) has no psi."""
    e = config.evaluation
    return log_likelihood.make_plan(e.eval_M, e.eval_K if config.row.hierarchical else 0)


def scores_path(workdir: Workdir, plan: Plan) -> pathlib.Path:
    """Where the per-image scores of an evaluation lie."""
    return workdir.evaluation / f"test_M{plan.M}_K{plan.K}.npz"


def evaluate(
    config: Config, model: VAE, test: np.ndarray, workdir: Workdir, step: int
) -> dict[str, Any]:
    """Scores the first `eval_images` test images and writes the summary.

    Continues where an interrupted evaluation of the same checkpoint stopped.

    Args:
        config: of the run, with the wanted evaluation settings.
        model: with the weights to be scored.
        test: uint8 `[N, D]`.
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
    path = scores_path(workdir, plan)
    identity = {
        "step": step,
        "seed": config.training.seed,
        "jit_compile": jit_compile,
        "plan": plan._asdict(),
    }
    scores, seconds = _load(path, identity)
    x = pipeline.fixed_binarization(test, config.training.seed, seeds.Purpose.EVALUATE)
    score = log_likelihood.make_scorer(model.callables, model.method, plan, jit_compile)
    done = len(scores.log_likelihood)
    if done >= num_images:
        return _write_summary(config, plan, scores, num_images, seconds, step, path)
    title = f"evaluation M={plan.M} K={plan.K}"
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
    return _write_summary(config, plan, scores, num_images, seconds, step, path)


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
        if not np.isfinite(values).all():
            image = first + int(np.argmin(np.isfinite(values)))
            raise UserError(f"test image {image}: {name} is not finite; the model has diverged")


def _write_summary(
    config: Config,
    plan: Plan,
    scores: ImageScores,
    num_images: int,
    seconds: float,
    step: int,
    path: pathlib.Path,
) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "dataset": config.data.dataset,
        "bound": config.method.bound,
        "split": "test",
        "images": num_images,
        "M": plan.M,
        "K": plan.K,
        "step": step,
        "seconds": round(seconds, 1),
        "scores": str(path),
    }
    for name, values in scores._asdict().items():
        kept = values[:num_images].astype(np.float64)
        error = kept.std(ddof=1) / np.sqrt(num_images) if num_images > 1 else float("nan")
        summary[name] = {"mean": float(kept.mean()), "standard_error": float(error)}
    workdirs.write_json(path.with_name(f"{path.stem}_N{num_images}.json"), summary)
    return summary
