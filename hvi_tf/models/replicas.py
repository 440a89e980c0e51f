"""What a replica of a `tf.distribute.Strategy` computes of its share of a batch."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from hvi_tf import noise


def mean(compute: Callable, x: tf.Tensor, *arguments: Any) -> Any:
    """What `compute` finds for a batch; in a replica, whose x is a share of it, the mean.

    Args:
        compute: made by `sharing`.
        x: the batch, or the replica's share of it.
        *arguments: the others of `compute`.
    """
    replica = tf.distribute.get_replica_context()
    count = replica.num_replicas_in_sync
    if count == 1:
        return compute(x, *arguments)
    found = compute(x, *arguments, replica.replica_id_in_sync_group, count)
    return replica.all_reduce(tf.distribute.ReduceOp.MEAN, found)


def sharing(compute: Callable) -> Callable:
    """`compute`, given also which of how many shares of a batch x is."""

    def shared(
        x: tf.Tensor,
        seed: tf.Tensor,
        inner: tf.Tensor,
        outer: tf.Tensor,
        K: int,
        index: int | tf.Tensor = 0,
        count: int = 1,
    ) -> Any:
        with noise.share(index, count):
            return compute(x, seed, inner, outer, K)

    return shared
