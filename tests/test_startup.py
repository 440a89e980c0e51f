"""The parts of a start add up; no test asserts how long one takes."""

import subprocess
import sys
import time

import pytest

from hvi_tf import startup
from hvi_tf.startup import StartUp


def test_the_parts_add_up_to_the_whole(monkeypatch):
    clock = iter([12.0, 15.5, 15.6])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    start_up = StartUp(began=10.0)
    for part in ("imports", "data", "model"):
        start_up.lap(part)
    assert sum(start_up.parts.values()) == pytest.approx(5.6)
    assert str(start_up) == "First step after 5.6 s (imports 2.0, data 3.5, model 0.1)."


def test_a_process_began_before_its_interpreter():
    """Its clock starts with it, so that the wait for the interpreter is not left out."""
    code = "import time; time.sleep(0.5); from hvi_tf import startup; "
    code += "print(time.monotonic() - startup.process_began(), time.monotonic())"
    before = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    age, now = map(float, result.stdout.split())
    assert 0.5 <= age <= now - before + 0.02  # a tick of the clock is 0.01


def test_a_system_that_does_not_tell_when_a_process_began(monkeypatch):
    def no_file(path):
        raise OSError

    monkeypatch.setattr(startup.files, "read_text", no_file)
    before = time.monotonic()
    assert startup.process_began() >= before


def test_a_run_imports_no_matplotlib_and_who_wants_it_may_import_it_later():
    pytest.importorskip("matplotlib")
    code = (
        "import sys; from hvi_tf import startup\n"
        "with startup.without_matplotlib():\n"
        "    import keras\n"
        "assert not [name for name in sys.modules if name.startswith('matplotlib')]\n"
        "import matplotlib.pyplot\n"
        "with startup.without_matplotlib():\n"
        "    import matplotlib.cm"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
