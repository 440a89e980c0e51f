"""The scores by which a model is validated during training."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from hvi_tf.inference import image_scores, plans, refined_scores
from hvi_tf.inference.image_scores import ImageScores
from hvi_tf.inference.refined_scores import RefinedScores
from hvi_tf.models.autoencoder import Autoencoder


class Scorer(NamedTuple):
    """The bound of images without warm-ups."""

    score: Callable[[tf.Tensor, tf.Tensor], ImageScores | RefinedScores]  # ([B, Dx], seed) -> [B]
    images: int  # that one call scores


def make_scorer(model: Autoencoder, jit_compile: bool) -> Scorer:
    """Returns the scorer of a model at the fixed counts of its configuration."""
    if not model.method.refines:
        plan = plans.make(model.method, model.counts, rows=model.rows_per_call)
        scorer = image_scores.make_scorer(model.prepare, model.method, plan, jit_compile)
        return Scorer(scorer, plan.images)
    refined = refined_scores.make_scorer(
        model.localize, model.method, model.svi_settings(), jit_compile=jit_compile
    )
    return Scorer(lambda x, seed: refined(x, seed, model.log_pi), model.refined_images)
