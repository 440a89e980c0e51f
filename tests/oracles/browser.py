"""Pages as a headless Chromium renders them, if one is installed."""

import pathlib
import shutil
import subprocess

import pytest

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install it")


def browse(*arguments, width=1200, height=900, budget_ms=20_000):
    """Returns the output of the browser at a URL, its last argument, after scripts have run."""
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *(f"--window-size={width},{height}", f"--virtual-time-budget={budget_ms}", *arguments),
    ]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


def screenshot(url, path, **size):
    browse(f"--screenshot={path}", url, **size)
    return pathlib.Path(path)


def dom(url, **size):
    """Returns the page after its scripts have run."""
    return browse("--dump-dom", url, **size)
