"""The start of a command; no test asserts its duration, because machines differ."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from hvi_tf.errors import KerasError
from hvi_tf.runtime import startup
from hvi_tf.runtime.startup import StartUp


def test_the_parts_add_up_to_the_whole(monkeypatch):
    clock = iter([12.0, 15.5, 15.6])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    start_up = StartUp(began=10.0)
    for part in ("imports", "data", "model"):
        start_up.lap(part)
    assert sum(start_up.parts.values()) == pytest.approx(5.6)
    assert str(start_up) == "First step after 5.6 s (imports 2.0, data 3.5, model 0.1)."


def test_the_clock_starts_before_the_interpreter():
    """Checks that the time until the interpreter runs is counted."""
    code = "import time; time.sleep(0.5); from hvi_tf.runtime import startup; "
    code += "print(time.monotonic() - startup.process_began(), time.monotonic())"
    before = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    age, now = map(float, result.stdout.split())
    assert 0.5 <= age <= now - before + 0.02  # a tick of the clock is 0.01


def test_the_clock_starts_now_if_the_start_of_the_process_is_unknown(monkeypatch):
    def no_file(path):
        raise OSError

    monkeypatch.setattr(pathlib.Path, "read_text", no_file)
    before = time.monotonic()
    assert startup.process_began() >= before


FAKE_TENSORFLOW = """
import os, types
LINES = (
    b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n"
    b"I0000 00:00:1795843331.8 19070 port.cc:153] oneDNN custom operations are on.\\n"
    b"E0000 00:00:1795843335.5 19070 cuda_platform.cc:52] failed call to cuInit: no device: "
    b"CUDA_ERROR_NO_DEVICE\\n"
    b"E0000 00:00:1795843335.5 19070 real.cc:1] a real error\\n"
)
os.write(2, LINES)
config = types.SimpleNamespace(list_physical_devices=lambda: ABORT and os.abort())
"""


@pytest.mark.parametrize(
    ("level", "debug", "aborts", "shown"),
    [
        (None, False, False, ["real.cc"]),
        ("2", False, True, ["real.cc"]),  # the filter outlives a process that dies
        ("0", False, False, ["WARNING", "oneDNN", "cuInit", "real.cc"]),
        (None, True, False, ["WARNING", "oneDNN", "cuInit", "real.cc"]),
    ],
)
def test_only_real_errors_are_printed_while_tensorflow_starts(
    level, debug, aborts, shown, tmp_path
):
    fake = FAKE_TENSORFLOW.replace("ABORT", str(aborts))
    (tmp_path / "tensorflow.py").write_text(fake)
    code = (
        "import os, sys; from hvi_tf.runtime import startup\n"
        "startup.check_keras_backend = lambda: None\n"
        f"startup.quiet_tensorflow({debug})\n"
        "import tensorflow\n"
        "os.write(2, b'the end')"
    )
    environment = {n: v for n, v in os.environ.items() if n != "TF_CPP_MIN_LOG_LEVEL"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    if level is not None:
        environment["TF_CPP_MIN_LOG_LEVEL"] = level
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    words = ("WARNING", "oneDNN", "cuInit", "real.cc")
    assert [word for word in words if word in result.stderr] == shown, result.stderr
    assert result.stderr.endswith("the end") == (not aborts)
    assert (result.returncode == 0) == (not aborts)


def test_matplotlib_is_not_imported_with_keras_but_can_be_later():
    pytest.importorskip("matplotlib")
    code = (
        "import sys; from hvi_tf.runtime import startup\n"
        "with startup.without_matplotlib():\n"
        "    import keras\n"
        "assert not [name for name in sys.modules if name.startswith('matplotlib')]\n"
        "import matplotlib.pyplot\n"
        "with startup.without_matplotlib():\n"
        "    import matplotlib.cm"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("variables", "content", "message"),
    [
        ({"KERAS_BACKEND": "nothing"}, "{}", "nothing); set KERAS_BACKEND=tensorflow"),
        ({}, '{"backend": "nothing"}', "nothing); set KERAS_BACKEND=tensorflow"),
        ({"KERAS_BACKEND": "tensorflow"}, '{"floatx": "float16"}', 'set "floatx": "float32" in'),
        ({"KERAS_BACKEND": "tensorflow"}, "[1]", "see keras.json"),
    ],
)
@pytest.mark.parametrize(
    "arguments",
    [
        ("main", "--workdir="),
        pytest.param(("reproduce", "laplace", "--out="), marks=[pytest.mark.long]),
    ],
)
def test_another_keras_prints_one_line_before_anything_is_written(
    arguments, variables, content, message, tmp_path
):
    (tmp_path / "keras.json").write_text(content)
    module, *given, folder = arguments
    command = [sys.executable, "-m", f"hvi_tf.{module}", *given, f"{folder}{tmp_path / 'run'}"]
    environment = {**os.environ, "KERAS_HOME": str(tmp_path), **variables}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    (line,) = [text for text in result.stderr.splitlines() if text.startswith("error:")]
    assert (result.returncode, message in line) == (2, True), line
    assert not (tmp_path / "run").exists()


def test_the_library_refuses_another_backend():
    code = "import hvi_tf; from hvi_tf.errors import KerasError\n"
    for use in ("hvi_tf.fit", "import hvi_tf.models.vae"):
        code += f"try:\n    {use}\nexcept KerasError as error:\n    print(error)\n"
    environment = {**os.environ, "KERAS_BACKEND": "nothing"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.stdout.count("set KERAS_BACKEND=tensorflow") == 2, result.stderr[-2000:]


def test_the_error_names_a_backend_other_than_tensorflow(monkeypatch):
    import keras

    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(KerasError, match="the backend of Keras is jax; set KERAS_BACKEND=tensor"):
        startup.check_keras_backend()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.set_floatx("float64"), "the floatx of Keras is float64"),
        (lambda config: config.set_dtype_policy("mixed_bfloat16"), "policy of Keras is mixed_bfl"),
    ],
)
def test_an_autoencoder_of_another_dtype_is_refused(change, message):
    import keras

    from hvi_tf.config import config as config_lib
    from hvi_tf.models.vae import make_vae

    try:
        change(keras.config)
        with pytest.raises(KerasError, match=message):
            make_vae(config_lib.make(bound="vae", hidden=(2,), latent_dim=2), 4)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
