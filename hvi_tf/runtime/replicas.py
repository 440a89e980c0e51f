"""Many devices and many processes, through the current `tf.distribute.Strategy`.

Everything runs under `strategy.scope()`, so these functions look the strategy up, as TensorFlow
itself does. Without a strategy (`--strategy=one`) they do nothing.

Workers make the same calls in the same order. They decide by numbers that all of them have: the
files of the chief, or exchanged values. Worker 0, the chief, writes all files.
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
    """Enters the strategy of this name; call it before TensorFlow runs an operation.

    Args:
        name: one of `cluster.STRATEGIES`.
        replicas: number of replicas of mirrored; 0 takes every GPU, or one CPU device on a
            machine without GPUs.

    Raises:
        UserError: if there are fewer GPUs, the environment names no workers, or a worker ends
            while others wait for it.
    """
    if name == "one":
        yield
        return
    strategy = _mirrored(replicas) if name == "mirrored" else _multiworker()
    try:
        with strategy.scope():
            yield
    except _WORKER_LOST as error:
        if _resolver_of(strategy) is None:
            raise
        raise UserError(
            "another worker has ended; its output has the reason. Start all workers again: they "
            "resume from the last checkpoint"
        ) from error


# A collective operation raises these when one of its processes ends.
_WORKER_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


def describe() -> str:
    """Returns the devices in words; empty without a strategy."""
    strategy = current()
    if strategy is None:
        return ""
    devices = strategy.extended.worker_devices
    workers = replicas() // len(devices)
    own = counted(len(devices), f"{devices[0].rsplit(':', 2)[-2]} device")
    return f"{counted(workers, 'worker')} with {own} each" if _resolver() is not None else own


def _mirrored(replicas: int) -> tf.distribute.Strategy:
    """Returns a strategy over GPUs, or over parts of the CPU on a machine without GPUs."""
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
    """Returns a strategy over the processes that the environment names."""
    member = cluster.member()
    if member.by_slurm:
        os.environ["TF_CONFIG"] = json.dumps(_slurm_cluster())
    return tf.distribute.MultiWorkerMirroredStrategy()


def _slurm_cluster() -> dict:
    """Returns the workers of this Slurm step and the index of this process, as in TF_CONFIG."""
    tasks = cluster.PORTS_PER_JOB
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=cluster.port_base(int(os.environ["SLURM_JOB_ID"])),
        # Slurm sets CUDA_VISIBLE_DEVICES; the resolver would need the number of GPUs for that.
        gpus_per_node=tasks,
        gpus_per_task=1,
        auto_set_gpu=False,
    )
    workers = resolver.cluster_spec().as_dict()
    kind, index = resolver.get_task_info()
    return {"cluster": workers, "task": {"type": kind, "index": index}}


def current() -> tf.distribute.Strategy | None:
    """Returns the current strategy, or None for `--strategy=one`."""
    return tf.distribute.get_strategy() if tf.distribute.has_strategy() else None


def _resolver() -> tf.distribute.cluster_resolver.ClusterResolver | None:
    """Returns the resolver of the current strategy, or None without other processes."""
    return _resolver_of(current())


def _resolver_of(
    strategy: tf.distribute.Strategy | None,
) -> tf.distribute.cluster_resolver.ClusterResolver | None:
    """Returns the resolver of a strategy, or None without other processes."""
    return getattr(strategy, "cluster_resolver", None)


def replicas() -> int:
    """Returns the number of devices of all workers, over which a batch is split."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def is_chief() -> bool:
    """Returns whether this process writes files."""
    return _resolver() is None or _index() == 0


def _index() -> int:
    """Returns the index of this worker."""
    return cluster.member().index


def any_worker(flag: bool) -> bool:
    """Returns whether the flag is set in any worker, after waiting for all workers."""
    return flag if _resolver() is None else bool(_gather(flag).any())


def least(value: int) -> int:
    """Returns the least value of all workers."""
    return value if _resolver() is None else int(_gather(value).min())


def barrier() -> None:
    """Waits for all workers."""
    any_worker(False)


@contextlib.contextmanager
def chief_first() -> Iterator[None]:
    """Runs the block in the chief first, so that the other workers find its files."""
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
                f"the workers have different {what}: {sorted(set(values.tolist()))}; "
                "--workdir must be on a file system that all of them share"
            )


def scores(
    score: Callable[[int], tuple[tf.Tensor, ...]], starts: Sequence[int], images: int
) -> list[tuple[np.ndarray, ...]]:
    """Scores several batches, each on another device, in all workers.

    Args:
        score: takes the first image of a batch, and returns a tuple of scores, `[n]` each, with
            n <= `images`.
        starts: first images of the batches, at most one per replica.
        images: largest n.

    Returns:
        The scores of each batch, the same in every worker. With a strategy they have the shape
        `[images]`, padded with zeros.
    """
    strategy = current()
    if strategy is None:
        return [tuple(s.numpy() for s in score(start)) for start in starts]
    devices = strategy.extended.worker_devices
    first = _index() * len(devices) if _resolver() is not None else 0

    def on_device(i: int) -> list[np.ndarray]:
        start = starts[min(first + i, len(starts) - 1)]  # spare devices repeat the last batch
        with strategy.scope(), tf.device(devices[i]):
            arrays = [s.numpy() for s in score(start)]
        return [np.pad(s, (0, images - len(s))) for s in arrays]

    if len(devices) == 1:
        local = [on_device(0)]
    else:
        with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
            local = list(pool.map(on_device, range(len(devices))))
    types = [s.dtype for s in local[0]]
    stacked = np.stack([np.stack(arrays) for arrays in local])  # [devices, scores, images]
    if _resolver() is not None:
        stacked = _gather_devices(stacked)
    return [
        tuple(s.astype(t) for s, t in zip(batch, types, strict=True))
        for batch in stacked[: len(starts)]
    ]


def _gather(value: int | bool) -> np.ndarray:
    """Returns the value of every replica, `[replicas]`."""
    devices = len(tf.distribute.get_strategy().extended.worker_devices)
    return _gather_devices(np.full([devices], value, np.int32))


def _gather_devices(local: np.ndarray) -> np.ndarray:
    """Gathers `[devices, ...]` of every worker to `[replicas, ...]`."""
    return _all_gather(tf.constant(local), tf.constant(_index() * len(local))).numpy()


@tf.function  # `Strategy.gather` would trace a new function at every call
def _all_gather(local: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
    strategy = tf.distribute.get_strategy()

    def gather() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        own = local[context.replica_id_in_sync_group - first]
        return context.all_gather(own[tf.newaxis], axis=0)

    return strategy.experimental_local_results(strategy.run(gather))[0]
