"""Which devices TensorFlow may use and how: chosen once, before it initialises any."""

import os
import re
from typing import Any

import tensorflow as tf

from hvi_tf.config.config import Config
from hvi_tf.config.settings import DeviceConfig
from hvi_tf.errors import UserError
from hvi_tf.runtime import machine
from hvi_tf.runtime.progress import counted


def configure(config: DeviceConfig) -> None:
    """Makes the chosen devices the only visible ones.

    Raises:
        UserError: if there is no such device, or TensorFlow is at work on others already.
    """
    gpus = _chosen_gpus(config.devices)
    try:
        tf.config.set_visible_devices(gpus, "GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, config.memory_growth)
    except RuntimeError as error:  # initialised, in a process that has run something before
        raise UserError(
            f"--devices={config.devices} --memory_growth={str(config.memory_growth).lower()}: too "
            f"late in this process ({error})"
        ) from error


def _chosen_gpus(text: str) -> list[Any]:
    """The GPUs of `--devices`; the CPU cannot be left out, for it feeds them.

    Raises:
        UserError: if there is no such device.
    """
    there = {_name(device): device for device in tf.config.list_physical_devices()}
    if not text:
        return [device for device in there.values() if device.device_type == "GPU"]
    chosen = []
    for name in text.lower().split(","):
        found = [n for n in there if n == name or re.fullmatch(rf"{re.escape(name)}:\d+", n)]
        if not found:
            raise UserError(
                f"--devices={text}: there is no {name or 'device without a name'} here; choose "
                f"from {', '.join(there)}"
            )
        chosen += found
    return [there[name] for name in dict.fromkeys(chosen) if there[name].device_type == "GPU"]


def _name(device: Any) -> str:
    """`gpu:0` of `/physical_device:GPU:0`."""
    return device.name.removeprefix("/physical_device:").lower()


def has_gpu() -> bool:
    """Whether there is a GPU that may be used."""
    return bool(tf.config.get_visible_devices("GPU"))


def report(config: Config, strategy: tf.distribute.Strategy | None = None) -> str:
    """What a run uses, a line each.

    Args:
        config: of the run, for this machine.
        strategy: that spreads it over devices, if one does.
    """
    build = tf.sysconfig.get_build_info()
    cuda = "no CUDA"
    if build.get("is_cuda_build"):
        cuda = f"CUDA {build['cuda_version']}, cuDNN {build['cudnn_version']}"
    gpus = tf.config.get_visible_devices("GPU")
    lines = {"TensorFlow": f"{tf.__version__}, built with {cuda}", "cpu:0": _cpu()}
    lines |= {_name(gpu): _gpu(i, gpu) for i, gpu in enumerate(gpus)}
    lines |= {
        "computes on": _logical_devices("GPU" if gpus else "CPU"),
        "threads": _threads(),
        "XLA (--jit_compile)": config.training.jit_compile,
        "precision": config.model.precision,
    }
    if strategy is not None:
        replicas = strategy.num_replicas_in_sync
        lines["strategy"] = f"{type(strategy).__name__}, {counted(replicas, 'replica')}"
    return "\n".join(f"{name:<20} {text}" for name, text in lines.items())


def _logical_devices(kind: str) -> str:
    names = (
        device.name.removeprefix("/device:") for device in tf.config.list_logical_devices(kind)
    )
    return ", ".join(names).lower()


def _cpu() -> str:
    cores = len(os.sched_getaffinity(0))
    return f"{machine.processor()}, {counted(cores, 'core')}, {machine.memory_gib()} GiB"


def _threads() -> str:
    threads = tf.config.threading
    within = threads.get_intra_op_parallelism_threads() or "as many as cores"
    between = threads.get_inter_op_parallelism_threads() or "as many as cores"
    return f"within an operation: {within}; between operations: {between}"


def _gpu(number: int, gpu: Any) -> str:
    details = tf.config.experimental.get_device_details(gpu)
    parts = [details.get("device_name", "a GPU")]
    if "compute_capability" in details:
        parts.append("compute capability " + ".".join(map(str, details["compute_capability"])))
    used = tf.config.experimental.get_memory_info(f"GPU:{number}")["current"]
    growth = tf.config.experimental.get_memory_growth(gpu)
    policy = "grows as needed" if growth else "is taken whole"
    parts.append(f"memory {policy}, {used / 2**30:.1f} GiB in use")
    return ", ".join(parts)
