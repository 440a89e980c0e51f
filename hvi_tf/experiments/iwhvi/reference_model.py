"""The trained IWHVI autoencoder of MNIST that several experiments use."""

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.data import pipeline
from hvi_tf.experiments.harness import trained
from hvi_tf.experiments.harness.experiment import Context, Settings
from hvi_tf.experiments.iwhvi import likelihood_runs
from hvi_tf.training.runs import Run

_QUICK: Settings = dict(
    K=10, K_schedule="", epochs=12, learning_rate=2e-3, outer_warmup_epochs=3.0,
    checkpoint_every=1, eval_every=1, steps_per_call=10,
)  # fmt: skip
_YOUNG: Settings = dict(gradient="reparameterized", K_schedule="", outer_warmup_epochs=0.0)


def settings(preset: str, young: bool = False) -> Settings:
    """Returns the recipe of the model; quick takes three minutes on 2 cores.

    Args:
        preset: quick, or full for the published recipe with the authors' best choice.
        young: whether to train it only slightly, for gradients (appendix D.2).
    """
    changes = dict(_QUICK) if preset == "quick" else {}
    if young:
        changes |= {**_YOUNG, "epochs": 5 if preset == "quick" else 50}
    return trained.recipe("mnist_iwhvi", **changes)


def run(preset: str, context: Context) -> Run:
    """Returns the trained model; for `long` it is the first IWHVI run of likelihood-table."""
    if preset != "long":
        return trained.train(context, settings(preset))
    table = likelihood_runs.PRESETS["long"]
    return likelihood_runs.final_run(
        context, likelihood_runs.final_cell("mnist", "IWHVI", 0, table).settings
    )


def minibatch(run: Run, size: int, index: int) -> tf.Tensor:
    """Returns the `index`-th minibatch of binarized training images `[size, D]`."""
    images = run.data.train[index * size : (index + 1) * size]
    seed = randomness.fold(run.config.training.seed, randomness.Purpose.BINARIZE, index)
    return pipeline.observe(tf.constant(images), run.config.model.likelihood, seed)
