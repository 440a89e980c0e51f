"""Many devices and many processes: what the current `tf.distribute.Strategy` is asked for.

Everything runs under `strategy.scope()`, so the strategy is not handed around: as in
TensorFlow itself, it is looked up. Without one (`--strategy=one`) all of this does nothing.

Workers go through the same calls in the same order, and decide by numbers that all of them
have: the chief's files, or what they exchanged. Worker 0, the chief, does all writing.
"""

import concurrent.futures
import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from hvi_tf.errors import UserError
from hvi_tf.runtime import cluster
from hvi_tf.runtime.progress import counted


@contextlib.contextmanager
def scope(name: str, replicas: int = 0) -> Iterator[None]:
    """Enters the strategy of this name; call it before TensorFlow has run anything.

    Args:
        name: of `cluster.STRATEGIES`.
        replicas: of mirrored; 0 takes every GPU, or one CPU device where there is none.

    Raises:
        UserError: if there are not as many GPUs, nothing names the workers, or one of them has
            gone while it was needed.
    """
    if name == "one":
        yield
        return
    strategy = _mirrored(replicas) if name == "mirrored" else _multiworker()
    try:
        with strategy.scope():
            yield
    except _GONE as error:
        if _resolver_of(strategy) is None:
            raise
        raise UserError(
            "another worker has gone, and its output says why; start all of them again: they go "
            "on from the last checkpoint"
        ) from error


# What a collective operation raises when a process that takes part in it ends.
_GONE = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


def describe() -> str:
    """The devices, in words; nothing without a strategy."""
    strategy = current()
    if strategy is None:
        return ""
    devices = strategy.extended.worker_devices
    workers = replicas() // len(devices)
    own = counted(len(devices), f"{devices[0].rsplit(':', 2)[-2]} device")
    return f"{counted(workers, 'worker')} with {own} each" if _resolver() is not None else own


def _mirrored(replicas: int) -> tf.distribute.Strategy:
    gpus = tf.config.get_visible_devices("GPU")
    if gpus and replicas > len(gpus):
        raise UserError(
            f"--replicas={replicas}: more than the {counted(len(gpus), 'visible GPU')}; give fewer"
        )
    kind, count = ("GPU", replicas or len(gpus)) if gpus else ("CPU", max(replicas, 1))
    if kind == "CPU":
        (cpu,) = tf.config.list_physical_devices("CPU")
        logical = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
        tf.config.set_logical_device_configuration(cpu, logical)
    return tf.distribute.MirroredStrategy([f"{kind}:{i}" for i in range(count)])


def _multiworker() -> tf.distribute.Strategy:
    member = cluster.member()
    if member.by_slurm:
        os.environ["TF_CONFIG"] = json.dumps(_slurm_cluster())
    return tf.distribute.MultiWorkerMirroredStrategy()


def _slurm_cluster() -> dict:
    """The workers of this Slurm step, and which of them this process is, like TF_CONFIG."""
    tasks = cluster.PORTS_PER_JOB
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=cluster.port_base(int(os.environ["SLURM_JOB_ID"])),
        # It would set CUDA_VISIBLE_DEVICES, for which it has to know of GPUs. Slurm does that.
        gpus_per_node=tasks,
        gpus_per_task=1,
        auto_set_gpu=False,
    )
    workers = resolver.cluster_spec().as_dict()
    kind, index = resolver.get_task_info()
    return {"cluster": workers, "task": {"type": kind, "index": index}}


def current() -> tf.distribute.Strategy | None:
    """The current one, unless it is `one`."""
    return tf.distribute.get_strategy() if tf.distribute.has_strategy() else None


def _resolver() -> tf.distribute.cluster_resolver.ClusterResolver | None:
    """None without other processes."""
    return _resolver_of(current())


def _resolver_of(
    strategy: tf.distribute.Strategy | None,
) -> tf.distribute.cluster_resolver.ClusterResolver | None:
    return getattr(strategy, "cluster_resolver", None)


def replicas() -> int:
    """Devices of all workers, over which a batch is split."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def is_chief() -> bool:
    """Whether this process writes."""
    return _resolver() is None or _index() == 0


def _index() -> int:
    return cluster.member().index


def any_worker(flag: bool) -> bool:
    """Whether the flag is set in any worker; all wait for each other here."""
    return flag if _resolver() is None else bool(_gather(flag).any())


def least(value: int) -> int:
    """The least of all workers' values."""
    return value if _resolver() is None else int(_gather(value).min())


def barrier() -> None:
    """Waits for all workers."""
    any_worker(False)


@contextlib.contextmanager
def chief_first() -> Iterator[None]:
    """Lets the chief go through before the others, who find what it has written."""
    if not is_chief():
        barrier()
    yield
    if is_chief():
        barrier()


def check_same(what: str, value: int) -> None:
    """Raises `UserError` unless all workers have the same value, read from the workdir."""
    if _resolver() is not None:
        values = _gather(value)
        if (values != value).any():
            raise UserError(
                f"the workers found different {what}: {sorted(set(values.tolist()))}; "
                "--workdir must be on a file system that all of them share"
            )


def scores(
    score: Callable[[int], tuple[tf.Tensor, ...]], starts: Sequence[int], images: int
) -> list[tuple[np.ndarray, ...]]:
    """`score` of each batch, every one on a device of its own, in all workers.

    Args:
        score: first image of a batch -> a tuple of its scores, `[n]` each, n <= `images`.
        starts: first images, at most as many as there are replicas.
        images: largest n.

    Returns:
        The scores of each batch, the same in every worker; of a strategy they are `[images]`,
        filled up with zeros.
    """
    strategy = current()
    if strategy is None:
        return [tuple(s.numpy() for s in score(start)) for start in starts]
    devices = strategy.extended.worker_devices
    first = _index() * len(devices) if _resolver() is not None else 0

    def on_device(i: int) -> list[np.ndarray]:
        start = starts[min(first + i, len(starts) - 1)]  # idle hands do the last one again
        with strategy.scope(), tf.device(devices[i]):
            found = [s.numpy() for s in score(start)]
        return [np.pad(s, (0, images - len(s))) for s in found]

    if len(devices) == 1:
        local = [on_device(0)]
    else:
        with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
            local = list(pool.map(on_device, range(len(devices))))
    types = [s.dtype for s in local[0]]
    stacked = np.stack([np.stack(found) for found in local])  # [devices, scores, images]
    if _resolver() is not None:
        stacked = _gather_devices(stacked)
    return [
        tuple(s.astype(t) for s, t in zip(batch, types, strict=True))
        for batch in stacked[: len(starts)]
    ]


def _gather(value: int | bool) -> np.ndarray:
    """This number of every replica, `[replicas]`."""
    devices = len(tf.distribute.get_strategy().extended.worker_devices)
    return _gather_devices(np.full([devices], value, np.int32))


def _gather_devices(local: np.ndarray) -> np.ndarray:
    """`[devices, ...]` of this worker -> `[replicas, ...]`, of all."""
    return _all_gather(tf.constant(local), tf.constant(_index() * len(local))).numpy()


@tf.function  # `Strategy.gather` would trace a function of its own at every call
def _all_gather(local: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
    strategy = tf.distribute.get_strategy()

    def gather() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        own = local[context.replica_id_in_sync_group - first]
        return context.all_gather(own[tf.newaxis], axis=0)

    return strategy.experimental_local_results(strategy.run(gather))[0]
