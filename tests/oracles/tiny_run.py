"""Trainings of tiny models on made-up images, under a strategy: `python -m tests.oracles.tiny_run`.

The run has its own process, because devices and workers are set up before any operation runs.
"""

import json
import os
import pathlib
import sys
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np

from hvi_tf.config import config as config_lib
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError
from hvi_tf.runtime import replicas as distribution
from hvi_tf.storage import workdir as workdirs

IMAGES = np.random.default_rng(0).integers(0, 256, (100, 16)).astype(np.uint8)
SIZES = dict(hidden=(8, 8), latent_dim=3, aux_dim=3, prior_dim=3, jit_compile="off")


def run(values, folder, spoiled_replica=None):
    """Trains and scores; the chief writes the final state and the scores to `folder`.npz.

    Args:
        values: changed values of the configuration.
        folder: the working directory.
        spoiled_replica: index of the replica that gets a NaN in step 2.
    """
    from hvi_tf.evaluation import evaluate, scorers
    from hvi_tf.models.vae import make_vae
    from hvi_tf.training import runs, steps

    data = Dataset(IMAGES[:40].copy(), IMAGES[40:63], IMAGES[63:], (4, 4, 1))
    config = config_lib.derive(SIZES, **values)
    folder = pathlib.Path(folder)
    results, model = {"error": ""}, None
    try:
        runs.check_data(config, data)
        with distribution.chief_first():
            workdir = workdirs.create_or_open(folder, config, writes=distribution.is_chief())
        model = make_vae(config, 16)
        model.validation_images = 5  # several batches, the last one shorter
        if spoiled_replica is not None:
            spoil(model, spoiled_replica)
        metrics, step_runner = [], steps.StepRunner.__call__

        def recorded(*arguments):
            step_metrics = step_runner(*arguments)
            metrics.append(step_metrics.values)
            return step_metrics

        with mock.patch.object(steps.StepRunner, "__call__", recorded):
            step = runs.train_to_best(config, model, data, workdir).step
        results["metrics"] = np.concatenate(metrics) if metrics else np.zeros(0)
        evaluate.evaluate(config, model, data, workdir, step)
        distribution.barrier()  # the others read the scores of the chief
        scores = np.load(scorers.scores_path(workdir, config, step), allow_pickle=False)
        results |= {f"score_{name}": scores[name] for name in scores.files if name != "seconds"}
        results["best_step"] = step
        workdir.close()
    except UserError as error:
        results["error"] = str(error)
    if model is not None:
        results["steps"] = model.optimizer.iterations.numpy()
        state = [*model.variables, *(v for o in model.all_optimizers for v in o.variables)]
        results |= {f"state_{i:03}": v.numpy() for i, v in enumerate(state)}
    if distribution.is_chief():
        np.savez(folder.with_suffix(".npz"), **results)
    distribution.barrier()


def spoil(model, bad):
    """Sets the observations of one replica to NaN in the second step."""
    import tensorflow as tf

    differentiate = model.differentiate

    def spoiled(x, *rest):
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        is_bad = tf.logical_and(tf.equal(index, bad), tf.equal(model.optimizer.iterations, 1))
        return differentiate(tf.where(is_bad, float("nan"), x), *rest)

    model.differentiate = spoiled


if __name__ == "__main__":
    with distribution.scope(sys.argv[1], int(sys.argv[2])):
        for job in json.loads(sys.argv[3]):
            run(*job)
