"""Facts about the machine of this process."""

import os
import pathlib
import platform


def processor() -> str:
    """Returns the model of the processor."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, UnicodeDecodeError, StopIteration, IndexError):
        return platform.machine()


def memory_gib() -> int:
    """Returns the memory of the machine in GiB."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
