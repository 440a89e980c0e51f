"""Devices that a command chooses, on a machine that is assumed to have one CPU."""

import dataclasses
import re
import subprocess
import sys
from typing import NamedTuple

import pytest
import tensorflow as tf

from hvi_tf.config import config as config_lib
from hvi_tf.config.settings import DeviceConfig
from hvi_tf.errors import UserError
from hvi_tf.runtime import devices


class Device(NamedTuple):
    name: str
    device_type: str


CPU = Device("/physical_device:CPU:0", "CPU")
GPUS = [Device(f"/physical_device:GPU:{i}", "GPU") for i in (0, 1, 11)]


@pytest.fixture
def machine(monkeypatch):
    """Imitates a machine with three GPUs; returns the settings that TensorFlow received."""
    received = {"visible": GPUS, "growth": {}}
    config = tf.config
    monkeypatch.setattr(config, "list_physical_devices", lambda: [CPU, *GPUS])
    monkeypatch.setattr(config, "get_visible_devices", lambda kind: received["visible"])
    monkeypatch.setattr(
        config, "set_visible_devices", lambda gpus, kind: received.update(visible=gpus, set=kind)
    )
    experimental = config.experimental
    monkeypatch.setattr(experimental, "set_memory_growth", received["growth"].__setitem__)
    monkeypatch.setattr(experimental, "get_memory_growth", received["growth"].__getitem__)
    details = {"device_name": "NVIDIA H200", "compute_capability": (9, 0)}
    monkeypatch.setattr(experimental, "get_device_details", lambda gpu: details)
    memory = {"current": 2**30, "peak": 2**31}
    monkeypatch.setattr(experimental, "get_memory_info", lambda name: memory)
    return received


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("", GPUS),
        ("gpu", GPUS),
        ("gpu:1", GPUS[1:2]),  # and not gpu:11
        ("GPU:11,gpu:0", [GPUS[2], GPUS[0]]),
        ("cpu", []),
        ("cpu:0,gpu:0,gpu:0", GPUS[:1]),
    ],
)
@pytest.mark.parametrize("growth", [True, False])
def test_the_chosen_gpus_are_visible_and_no_others(flag, expected, growth, machine):
    devices.configure(DeviceConfig(devices=flag, memory_growth=growth))
    assert machine["visible"] == expected
    assert machine["growth"] == dict.fromkeys(expected, growth)
    assert devices.has_gpu() == bool(expected)


@pytest.mark.parametrize("flag", ["gpu:2", "tpu", "gpu:0,,gpu:1", "gpu:0,gpu:-1", "0"])
def test_the_error_names_a_missing_device_and_the_available_ones(flag, machine):
    with pytest.raises(UserError, match=f"--devices={flag}: this machine has no ") as error:
        devices.configure(DeviceConfig(devices=flag))
    assert "choose from cpu:0, gpu:0, gpu:1, gpu:11" in str(error.value)
    assert machine["growth"] == {}


def test_the_error_names_a_choice_that_comes_too_late(machine, monkeypatch):
    def initialized(gpus, kind):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    monkeypatch.setattr(tf.config, "set_visible_devices", initialized)
    with pytest.raises(UserError, match=r"--devices=cpu .* too late in this process \(Visible"):
        devices.configure(DeviceConfig(devices="cpu"))


def test_the_report_names_every_gpu_in_use(machine, monkeypatch):
    monkeypatch.setattr(
        tf.config, "list_logical_devices", lambda kind: [Device("/device:GPU:0", kind)]
    )
    devices.configure(DeviceConfig(devices="gpu:1"))
    text = devices.report(config_lib.make(jit_compile="on", precision="bfloat16"))
    expected = "gpu:1 +NVIDIA H200, compute capability 9.0, memory grows as needed, 1.0 GiB in use"
    assert re.search(expected, text)
    assert "gpu:11" not in text
    assert re.search(r"XLA \(--jit_compile\) +on", text)
    assert re.search("precision +bfloat16", text)


def test_the_report_lists_both_devices_of_one_cpu():
    """Uses a separate process, because devices are configured once, and a strategy over both."""
    code = (
        "import tensorflow as tf\n"
        "from hvi_tf.config import config; from hvi_tf.runtime import devices\n"
        "from hvi_tf.config.settings import DeviceConfig\n"
        "tf.config.threading.set_intra_op_parallelism_threads(3)\n"
        "devices.configure(DeviceConfig(devices='cpu'))\n"
        "(cpu,) = tf.config.list_physical_devices('CPU')\n"
        "two = [tf.config.LogicalDeviceConfiguration()] * 2\n"
        "tf.config.set_logical_device_configuration(cpu, two)\n"
        "strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])\n"
        "print(devices.report(config.make(jit_compile='off'), strategy))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    for line in (
        rf"TensorFlow +{re.escape(tf.__version__)}, built with",
        r"cpu:0 +\S.*, \d+ cores, \d+ GiB",
        "computes on +cpu:0, cpu:1",
        "threads +within an operation: 3; between operations: as many as cores",
        r"XLA \(--jit_compile\) +off",
        "precision +float32",
        "strategy +MirroredStrategy, 2 replicas",
    ):
        assert re.search(line, result.stdout), line


def test_devices_are_not_part_of_a_run():
    names = {field.name for field in dataclasses.fields(DeviceConfig)}
    assert names.isdisjoint(field.name for field in config_lib.fields())
