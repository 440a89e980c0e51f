"""A training of a tiny model on made-up images, under a strategy: `python -m tests.tiny_run`.

A process of its own: devices and workers are settled before TensorFlow has run anything.
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np

from hvi_tf import config as config_lib
from hvi_tf import distribution
from hvi_tf import workdir as workdirs
from hvi_tf.data.datasets import Dataset
from hvi_tf.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 16)).astype(np.uint8)
SIZES = dict(hidden=(8, 8), latent_dim=3, aux_dim=3, batch_size=12, clip_norm=0.05)


def run(arguments):
    """Trains, then scores; arrays of the final state and the scores go to `out` of the chief."""
    from hvi_tf.evaluation import evaluate
    from hvi_tf.models.vae import make_vae
    from hvi_tf.training import loop, runs

    data = Dataset(IMAGES[:40].copy(), IMAGES[40:50], IMAGES[50:], (4, 4, 1))
    config = config_lib.make(**{**SIZES, "jit_compile": "off", **arguments["config"]})
    loop.check_data(config, data)
    path = pathlib.Path(arguments["workdir"])
    if distribution.is_chief():
        workdir = workdirs.create_or_open(path, config)
    distribution.barrier()
    if not distribution.is_chief():
        workdir = workdirs.open_existing(path, writes=False)
    model = make_vae(config, 16)
    if "bad_replica" in arguments:
        spoil(model, arguments["bad_replica"])
    error = ""
    scores = {}
    try:
        found = runs.train(config, data, model, workdir)
        evaluate.evaluate(config, model, data, workdir, found.step)
        scores = dict(np.load(evaluate.scores_path(workdir, config)))
    except UserError as stop:
        error = str(stop)
    state = [v.numpy() for v in [*model.variables, *model.optimizer.variables]]
    if distribution.is_chief():
        np.savez(
            arguments["out"],
            error=error,
            **{f"state_{i:03}": v for i, v in enumerate(state)},
            **{f"score_{name}": s for name, s in scores.items() if name != "seconds"},
        )
    distribution.barrier()


def spoil(model, bad):
    """Makes one replica's part of the second step not finite."""
    import tensorflow as tf

    ascend = model._ascend

    def spoiled(x, *rest):
        index = tf.distribute.get_replica_context().replica_id_in_sync_group
        is_bad = tf.logical_and(tf.equal(index, bad), tf.equal(model.optimizer.iterations, 1))
        return ascend(tf.where(is_bad, float("nan"), x), *rest)

    model._ascend = spoiled


if __name__ == "__main__":
    arguments = json.loads(sys.argv[1])
    with distribution.scope(arguments.get("strategy", "one"), arguments.get("replicas", 0)):
        run(arguments)
