"""Where the numbers of an experiment come from."""

import os
import platform
import subprocess


def provenance() -> str:
    """The commit and the machine that the numbers come from."""
    git = ["git", "-C", os.path.dirname(__file__), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    python = platform.python_version()
    return f"Commit {commit}, {os.cpu_count()} cores of {platform.machine()}, Python {python}"
