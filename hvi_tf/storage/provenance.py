"""The provenance of numbers: commit, machine, versions, and digests of the data."""

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
from typing import Any

from hvi_tf.config.settings import DataConfig
from hvi_tf.runtime import machine
from hvi_tf.runtime.progress import counted

_PACKAGES = ("tensorflow", "keras", "tensorflow-probability", "numpy", "matplotlib")

# Digests of the data used since `begin`, by data set and split.
_data: dict[str, dict[str, str]] = {}


def begin() -> None:
    """Forgets the recorded data, before a new measurement."""
    _data.clear()


def record_data(data: DataConfig, digests: dict[str, str]) -> None:
    """Records that the following numbers depend on a data set.

    Args:
        data: the data set and split.
        digests: SHA-256 of the pixels, by part of the split.
    """
    _data[_name(data)] = digests


def _name(data: DataConfig) -> str:
    return f"{data.dataset}, split {data.split}"


def provenance() -> str:
    """Returns the commit and the machine as a sentence."""
    return (
        f"Commit {commit()}, {counted(os.cpu_count() or 1, 'core')} of {machine.processor()}, "
        f"Python {platform.python_version()}"
    )


def record(data: DataConfig | None = None) -> dict[str, Any]:
    """Returns commit, machine, versions, date and digests of the data, for JSON.

    The commit is read at the first call of this process, when the source is already imported.

    Args:
        data: the only data set to include; None includes all since `begin`.
    """
    names = _data if data is None else [_name(data)]
    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "cores": os.cpu_count(),
            "processor": machine.processor(),
            "memory_gib": machine.memory_gib(),
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "data": {name: _data[name] for name in names if name in _data},
    }


@functools.cache
def commit() -> str:
    """Returns the commit of the source, marked if the source was changed; unknown outside a clone.

    A repository around an installed package does not count, because it does not track this file.
    """
    tracked = _git("ls-files", "--error-unmatch", os.path.basename(__file__))
    return (tracked and _git("describe", "--always", "--dirty")) or "unknown"


def _git(*arguments: str) -> str:
    """Returns the output of git for the folder of this file; empty if git fails."""
    # A hook of another repository sets these, and git would use them instead of the folder.
    environment = {n: v for n, v in os.environ.items() if n not in _OF_A_REPOSITORY}
    command = ["git", "-C", os.path.dirname(__file__), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    except OSError:  # no git here
        return ""
    return done.stdout.strip()


_OF_A_REPOSITORY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


def _versions() -> dict[str, str]:
    """Returns the versions of the installed packages on which the numbers depend."""
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
