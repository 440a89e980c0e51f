"""Validation of a model during training."""

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.inference.image_scores import ImageScores
from hvi_tf.inference.refined_scores import RefinedScores
from hvi_tf.models.vae import VAE
from hvi_tf.runtime import replicas


def validate(model: VAE, images: tf.Tensor, seed: int) -> ImageScores | RefinedScores:
    """Returns the mean scores of observed images at the model's fixed counts.

    Every call uses the same pixels and the same draws, so the results of two calls are
    comparable. Each device of each worker scores its own batches; all workers return the same.

    Args:
        model: the compiled model.
        images: observations `[N, D]`.
        seed: the run's.
    """
    batch, count = model.validation_images, replicas.replicas()
    kind = RefinedScores if model.method.refines else ImageScores

    def score(i: int) -> ImageScores | RefinedScores:
        folded = randomness.fold(seed, randomness.Purpose.VALIDATE, i)
        return model.validation_scores(images[i : i + batch], folded)

    starts = range(0, len(images), batch)
    scores = [
        batch_scores
        for i in range(0, len(starts), count)
        for batch_scores in replicas.scores(score, starts[i : i + count], batch)
    ]
    return kind(
        *(float(tf.reduce_mean(tf.concat(s, 0)[: len(images)])) for s in zip(*scores, strict=True))
    )
