"""Settings of one command, which are not part of a run and never stored in config.json."""

import dataclasses
import functools

from hvi_tf.config.settings.fields import Identity, setting

_command = functools.partial(setting, section="Command", identity=Identity.NONE)
_device = functools.partial(setting, section="Devices", identity=Identity.NONE)
_program = functools.partial(setting, section="SavedModel", identity=Identity.NONE)


@dataclasses.dataclass(frozen=True)
class CommandConfig:
    """The work of one command."""

    workdir: str = _command(
        "",
        "Folder of the run; the same command on it resumes. Default: runs/<name>.",
        main=True,
    )
    mode: str = _command(
        "train",
        "train (then evaluates and exports); or, for a trained --workdir: fit_tau (keeps p and "
        "q and trains a new tau in a separate folder), evaluate, export, or sample (writes a PNG "
        "file of images drawn from the model).",
        main=True,
    )
    strategy: str = _device(
        "one",
        "Devices that share each batch, and the images to be scored: one; mirrored = all GPUs of "
        "this machine; multiworker = the processes that TF_CONFIG or Slurm names. It is no part "
        "of a run: a run may be resumed with another strategy.",
    )
    replicas: int = _device(
        0,
        "Devices of --strategy=mirrored: GPUs, or parts of the CPU on a machine without GPUs. 0: "
        "all GPUs.",
        0,
        1_024,
    )
    check_determinism: bool = _command(
        False,
        "Trains ten steps twice instead of the run, and prints whether they are the same bit for "
        "bit. Writes nothing.",
    )


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """The devices of one command; the next command on a run may use others."""

    devices: str = _device(
        "",
        "Devices to use, such as cpu, gpu, or gpu:0,gpu:1. Default: every GPU, else the CPU.",
        main=True,
    )
    memory_growth: bool = _device(
        True,
        "Allocates the memory of a GPU as it is needed; TensorFlow otherwise allocates all of it "
        "at the start.",
    )
    device_report: bool = _device(
        False, "Prints devices, threads, XLA and precision before anything is computed."
    )


@dataclasses.dataclass(frozen=True)
class SavedModelConfig:
    """The SavedModel that is scored instead of the checkpoint of a run.

    A SavedModel is a program, so only the command line names one. A config.json may come from
    a stranger, and may neither name a program nor trust it.
    """

    saved_model: str = _program(
        "",
        "SavedModel that --mode=evaluate scores on the data of the run, by its log_weights alone; "
        "a relative path begins at --workdir, where the export is called saved_model.",
    )
    trust_saved_model: bool = _program(
        False,
        "Loads a --saved_model that is outside --workdir. A SavedModel is a program, which may "
        "read and write files: give this flag only for a source that you trust.",
    )
