"""Means over the replicas of a `tf.distribute.Strategy` that share a batch."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hvi_tf import randomness
from hvi_tf.inference.counts import Warmup


def mean(compute: Callable, x: tf.Tensor, *arguments: Any) -> Any:
    """Returns `compute` of a batch, or in a replica the mean over all replicas.

    Args:
        compute: made by `sharing`.
        x: the batch, or the replica's share of it.
        *arguments: other arguments of `compute`.
    """
    replica = tf.distribute.get_replica_context()
    count = replica.num_replicas_in_sync
    if count == 1:
        return compute(x, *arguments)
    share = compute(x, *arguments, replica.replica_id_in_sync_group, count)
    return replica.all_reduce(tf.distribute.ReduceOp.MEAN, share)


def sharing(compute: Callable) -> Callable:
    """Adds two arguments to `compute`: the index of x among the shares, and their count."""

    def shared(
        x: tf.Tensor,
        seed: tf.Tensor,
        warmup: Warmup,
        K: int,
        index: int | tf.Tensor = 0,
        count: int = 1,
    ) -> Any:
        with randomness.share(index, count):
            return compute(x, seed, warmup, K)

    return shared
