"""Where numbers come from: commit, machine, versions, and the data by their digests."""

import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
from typing import Any

from hvi_tf import machine

_PACKAGES = ("tensorflow", "keras", "tensorflow-probability", "numpy", "matplotlib")

# Of the data sets that this process has loaded.
_data: dict[str, dict[str, str]] = {}


def saw(dataset: str, digests: dict[str, str]) -> None:
    """Notes that this process works with these data.

    Args:
        dataset: its name.
        digests: of its splits.
    """
    _data[dataset] = digests


def provenance() -> str:
    """The commit and the machine that the numbers come from, as a sentence."""
    return (
        f"Commit {commit()}, {os.cpu_count()} cores of {machine.processor()}, "
        f"Python {platform.python_version()}"
    )


def record() -> dict[str, Any]:
    """The same with versions and the date, for JSON.

    The commit is that of this process' first call: what is imported by then is what runs.
    """
    return {
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {
            "cores": os.cpu_count(),
            "processor": machine.processor(),
            "memory_gib": machine.memory_gib(),
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "data": dict(_data),
    }


@functools.cache
def commit() -> str:
    """The commit of the source, marked if it was changed since; unknown outside a clone."""
    git = ["git", "-C", os.path.dirname(__file__), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git here
        found = ""
    return found or "unknown"


def _versions() -> dict[str, str]:
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
