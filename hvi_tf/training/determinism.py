"""A check that two trainings on this machine have the same results bit for bit."""

import numpy as np

from hvi_tf.config.config import Config
from hvi_tf.data import pipeline
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.models.vae import make_vae
from hvi_tf.training.steps import StepRunner

STEPS = 10


def check(config: Config, data: Dataset) -> str:
    """Trains ten steps twice from scratch and compares the results bit for bit.

    Args:
        config: the run's configuration.
        data: the images to train on.

    Returns:
        A line that confirms that the results are the same.

    Raises:
        UserError: if they differ; names an array and the largest difference in it.
    """
    first, second = _train(config, data), _train(config, data)
    done = {len(results["metric bound"]) for results in (first, second)}
    if done != {STEPS}:
        raise UserError(
            f"--check_determinism: step {min(done)} was not finite; try a smaller --learning_rate"
        )
    different = [name for name in first if not _same(first[name], second[name])]
    if different:
        name = different[0]
        by = np.max(np.abs(first[name].astype(float) - second[name].astype(float)))
        raise UserError(
            f"--check_determinism: {STEPS} steps twice differ in {len(different)} of {len(first)} "
            f"arrays, in {name} by {by:.3g}; on a GPU set TF_DETERMINISTIC_OPS=1"
        )
    return (
        f"{STEPS} steps twice: metrics, weights and optimizer are the same bit for bit "
        f"({len(first)} arrays)."
    )


def _train(config: Config, data: Dataset) -> dict[str, np.ndarray]:
    t = config.training
    model = make_vae(config, data.train.shape[1])
    model.set_schedule(*config.schedule(0))
    model.set_run_length(STEPS)
    batches = pipeline.training_batches(
        data.train, t.batch_size, t.seed, 0, STEPS, likelihood=config.model.likelihood
    )
    metrics = StepRunner(model)(iter(batches), STEPS)
    results = {f"metric {name}": metrics.values[:, i] for i, name in enumerate(metrics.names)}
    results |= {f"weight {name}": v.numpy() for name, v in model.weights_by_name.items()}
    states = [v.numpy() for o in model.all_optimizers for v in o.variables]
    return results | {f"optimizer {i}": state for i, state in enumerate(states)}


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.tobytes() == other.tobytes()
