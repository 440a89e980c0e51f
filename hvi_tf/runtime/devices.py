"""The devices of TensorFlow, chosen once before TensorFlow initializes any."""

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
    """Makes the devices of `--devices` the only visible ones.

    Raises:
        UserError: if a device does not exist, or TensorFlow has already initialized devices.
    """
    gpus = _chosen_gpus(config.devices)
    try:
        tf.config.set_visible_devices(gpus, "GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, config.memory_growth)
    except RuntimeError as error:  # this process has already run an operation
        raise UserError(
            f"--devices={config.devices} --memory_growth={str(config.memory_growth).lower()}: too "
            f"late in this process ({error})"
        ) from error


def _chosen_gpus(text: str) -> list[Any]:
    """Returns the GPUs in `--devices`; the CPU stays visible, because it feeds the GPUs.

    Raises:
        UserError: if a device does not exist.
    """
    present = {_name(device): device for device in tf.config.list_physical_devices()}
    if not text:
        return [device for device in present.values() if device.device_type == "GPU"]
    chosen = []
    for name in text.lower().split(","):
        matches = [n for n in present if n == name or re.fullmatch(rf"{re.escape(name)}:\d+", n)]
        if not matches:
            raise UserError(
                f"--devices={text}: this machine has no {name or 'device without a name'}; choose "
                f"from {', '.join(present)}"
            )
        chosen += matches
    return [present[name] for name in dict.fromkeys(chosen) if present[name].device_type == "GPU"]


def _name(device: Any) -> str:
    """Returns `gpu:0` for `/physical_device:GPU:0`."""
    return device.name.removeprefix("/physical_device:").lower()


def has_gpu() -> bool:
    """Returns whether TensorFlow may use a GPU."""
    return bool(tf.config.get_visible_devices("GPU"))


def report(config: Config, strategy: tf.distribute.Strategy | None = None) -> str:
    """Returns one line for each of devices, threads, XLA and precision.

    Args:
        config: configuration of the run, for this machine.
        strategy: the run's strategy; None for one device.
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
    """Returns the logical devices of a kind, CPU or GPU."""
    names = (
        device.name.removeprefix("/device:") for device in tf.config.list_logical_devices(kind)
    )
    return ", ".join(names).lower()


def _cpu() -> str:
    """Returns the processor, its cores and the memory."""
    cores = len(os.sched_getaffinity(0))
    return f"{machine.processor()}, {counted(cores, 'core')}, {machine.memory_gib()} GiB"


def _threads() -> str:
    """Returns the sizes of TensorFlow's thread pools."""
    threads = tf.config.threading
    within = threads.get_intra_op_parallelism_threads() or "as many as cores"
    between = threads.get_inter_op_parallelism_threads() or "as many as cores"
    return f"within an operation: {within}; between operations: {between}"


def _gpu(number: int, gpu: Any) -> str:
    """Returns the name of a GPU, its compute capability and its memory policy."""
    details = tf.config.experimental.get_device_details(gpu)
    parts = [details.get("device_name", "a GPU")]
    if "compute_capability" in details:
        parts.append("compute capability " + ".".join(map(str, details["compute_capability"])))
    used = tf.config.experimental.get_memory_info(f"GPU:{number}")["current"]
    growth = tf.config.experimental.get_memory_growth(gpu)
    policy = "grows as needed" if growth else "is allocated at once"
    parts.append(f"memory {policy}, {used / 2**30:.1f} GiB in use")
    return ", ".join(parts)
