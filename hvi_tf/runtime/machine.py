"""The machine that this process runs on."""

import os
import pathlib
import platform

from hvi_tf.storage import files


def processor() -> str:
    """The model of the processor."""
    try:
        lines = files.read_text(pathlib.Path("/proc/cpuinfo")).splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.machine()


def memory_gib() -> int:
    """The machine's memory."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
