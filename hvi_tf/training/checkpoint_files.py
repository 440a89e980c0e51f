"""The files of checkpoints in a folder: their names, their digests, and the removal of old ones.

A checkpoint `ckpt-N` consists of TensorFlow's files and a manifest, `ckpt-N.json`, with its step,
its run and the digests of the other files.
"""

import os
import pathlib
import re

import tensorflow as tf

from hvi_tf.storage import files

_SUFFIXES = (".data-00000-of-00001", ".index")  # of TensorFlow's files
_OVERHEAD = 64 * 2**20  # bytes, more than anything else than weights and optimizer takes
_NAME = re.compile(rf"ckpt-(\d+)({'|'.join(map(re.escape, (*_SUFFIXES, '.json')))})")


def steps(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    """Returns the paths of the checkpoints in a folder, without suffix, by their step.

    Reads the folder and not TensorFlow's list of its content, because that list may be damaged.
    """
    return {
        int(match[1]): file.with_suffix("")
        for file in folder.glob("ckpt-*.index")
        if (match := re.fullmatch(r"ckpt-(\d+)\.index", file.name))
    }


def manifest(prefix: pathlib.Path) -> pathlib.Path:
    """Returns the path of a checkpoint's manifest."""
    return prefix.with_name(f"{prefix.name}.json")


def write(checkpoint: tf.train.Checkpoint, folder: pathlib.Path, step: int, run: str) -> None:
    """Writes a checkpoint atomically.

    TensorFlow fills the files in a temporary folder, because it fills its index in place.

    Args:
        checkpoint: the objects to save.
        folder: an existing one.
        step: the training step, part of the name.
        run: digest of the run's identity.
    """
    name = f"ckpt-{step}"
    with files.temporary_folder(folder / name) as place:
        checkpoint.write(str(place / name))
        parts = [place / f"{name}{suffix}" for suffix in _SUFFIXES]
        for part in parts:
            files.sync(part)
        digests = {part.name: files.digest(part) for part in parts}
        metadata = {"run": run, "step": step, "sha256": digests}
        (folder / f"{name}.index").unlink(missing_ok=True)  # of an earlier one of this name
        files.write_json(manifest(folder / name), metadata)
        for part in parts:  # the index last, because it marks a complete checkpoint
            os.replace(part, folder / part.name)
    files.sync(folder)
    # For `tf.train.latest_checkpoint`; this package does not read it.
    files.write_atomically(folder / "checkpoint", f'model_checkpoint_path: "{name}"\n')


def verify(prefix: pathlib.Path, step: int, run: str, weights: int) -> None:
    """Checks that a checkpoint has the files that were written under its name.

    Args:
        prefix: path of the checkpoint, without suffix.
        step: the step in its name.
        run: digest of the run's identity.
        weights: number of the model's weights; limits the size of the files.

    Raises:
        ValueError: if a file is missing, too large, damaged or belongs to another checkpoint.
        OSError: if a file cannot be read.
    """
    parts = [prefix.with_name(f"{prefix.name}{suffix}") for suffix in _SUFFIXES]
    # Float32, with their averages and three moments for each of two optimizers.
    max_bytes = _OVERHEAD + 32 * weights
    files.check_regular((part for part in parts if part.exists()), max_bytes)
    path = manifest(prefix)
    if not path.exists():
        raise ValueError(f"{path.name} is missing")
    metadata = files.read_json(path)
    if metadata["step"] != step:
        raise ValueError(f"its {path.name} is that of step {metadata['step']}")
    if metadata["run"] != run:
        raise ValueError("it belongs to another run")
    for file in parts:
        if not file.exists():
            raise ValueError(f"{file.name} is missing")
        expected, actual = metadata["sha256"][file.name], files.digest(file)
        if actual != expected:
            raise ValueError(f"{file.name} has SHA-256 {actual[:8]}..., not {expected[:8]}...")


def remove_except(folder: pathlib.Path, kept: set[int]) -> None:
    """Removes the files of all other checkpoints, complete or not; indices first."""
    for file in sorted(folder.glob("ckpt-*"), key=lambda file: file.suffix != ".index"):
        step = _NAME.fullmatch(file.name)
        if step and int(step[1]) not in kept and not file.is_dir():
            file.unlink(missing_ok=True)
