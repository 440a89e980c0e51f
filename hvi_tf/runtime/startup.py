"""The start of a command: its time, the noise of TensorFlow, and the settings of Keras."""

import contextlib
import importlib.abc
import os
import pathlib
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence

from hvi_tf.errors import KerasError, first_line


class StartUp:
    """A stopwatch with a lap for each part of a start; the laps add up to the whole.

    Args:
        began: start of the command, on the clock of `time.monotonic`.
    """

    def __init__(self, began: float) -> None:
        self.began = self._last = began
        self.parts: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """Counts the time since the last lap as `part`."""
        now = time.monotonic()
        self.parts[part] = now - self._last
        self._last = now

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.parts.items())
        return f"First step after {self._last - self.began:.1f} s ({parts})."


def process_began() -> float:
    """Returns the start of this process on the clock of `time.monotonic`; now, if unknown.

    The interpreter itself takes time before it can read a clock.
    """
    now = time.monotonic()
    try:
        fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])  # `starttime` of proc(5), since the start of the machine
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError, AttributeError):
        return now
    return now - max(age, 0.0)


def quiet_tensorflow(debug: bool = False) -> None:
    """Imports Keras and TensorFlow and lists the devices, without routine messages.

    TensorFlow's C++ code prints them to file descriptor 2 before it reads its own log level.
    Errors still reach standard error, also if the process dies. With `debug`, or a
    TF_CPP_MIN_LOG_LEVEL of 0 or 1 in the environment, everything is printed.

    Raises:
        KerasError: if Keras cannot be imported, or computes with another library.
    """
    if debug or "tensorflow" in sys.modules:
        return
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") in ("0", "1"):
        return
    with _filtered_stderr():
        check_keras_backend()  # first, because TensorFlow imports Keras without a clear error
        import tensorflow as tf

        tf.config.list_physical_devices()


# Messages at a start that is in order, in the formats of absl and of older TensorFlow.
_ROUTINE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|[IW]\d{4} \d\d:\d\d:\d"
    rb"|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IW] "
    rb"|E\d{4} .*(Unable to register cu\w+ factory|computation placer already registered)"
)
# The same error is routine on a machine without a GPU, or with all GPUs hidden.
_NO_GPU = re.compile(rb"E\d{4} .*failed call to cuInit")
_NO_DEVICE = re.compile(rb"E\d{4} .*failed call to cuInit.*CUDA_ERROR_NO_DEVICE")


def _is_routine(line: bytes) -> bool:
    """Returns whether a line of standard error reports nothing that the user should act on."""
    has_driver = os.path.exists("/proc/driver/nvidia") or os.path.exists("/dev/nvidiactl")
    no_gpu = _NO_DEVICE if has_driver else _NO_GPU
    return bool(_ROUTINE.match(line) or no_gpu.match(line))


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Drops routine lines from file descriptor 2.

    A child process filters them, so that the last lines of a process that aborts are not lost.
    """
    sys.stderr.flush()
    sys.stdout.flush()
    stderr = os.dup(2)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _copy_lines(reader, writer, stderr)
    os.close(reader)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        os.waitpid(child, 0)


def _copy_lines(reader: int, writer: int, stderr: int) -> None:
    """Copies the lines of a pipe to standard error, except routine ones, and ends the process."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides when to end
            signal.signal(number, signal.SIG_IGN)
        os.close(writer)
        os.dup2(stderr, 2)
        with os.fdopen(reader, "rb") as lines:
            for line in lines:
                if not _is_routine(line):
                    with contextlib.suppress(OSError):  # standard error may be closed
                        os.write(2, line)
    finally:
        os._exit(0)


class _WithoutMatplotlib(importlib.abc.MetaPathFinder):
    """A finder that makes matplotlib look as if it were not installed."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> None:
        """Raises `ModuleNotFoundError` for matplotlib, and finds no other module."""
        if fullname.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@contextlib.contextmanager
def without_matplotlib() -> Iterator[None]:
    """Hides matplotlib while Keras is imported, because importing it takes half a second.

    Only the plotting functions of Keras need it, and this package does not call them.
    """
    finder = _WithoutMatplotlib()
    if "matplotlib" not in sys.modules:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        if finder in sys.meta_path:
            sys.meta_path.remove(finder)


def check_keras_backend() -> None:
    """Imports Keras and raises `KerasError` unless it computes with TensorFlow."""
    try:
        import keras
    except Exception as error:  # another backend is missing, or keras.json is damaged
        raise KerasError(
            f"Keras cannot be imported ({first_line(error)}); set KERAS_BACKEND=tensorflow in the "
            "environment, and see keras.json in ~/.keras or KERAS_HOME"
        ) from error
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise KerasError(
            f"the backend of Keras is {backend}; set KERAS_BACKEND=tensorflow in the environment, "
            "before Keras is imported"
        )


def check_keras_dtype() -> None:
    """Raises `KerasError` unless Keras makes layers of float32."""
    import keras

    floatx, policy = keras.config.floatx(), keras.config.dtype_policy().name
    if floatx != "float32":
        raise KerasError(
            f'the floatx of Keras is {floatx}; set "floatx": "float32" in keras.json (in '
            "~/.keras or KERAS_HOME), or call keras.config.set_floatx('float32')"
        )
    if policy != "float32":
        raise KerasError(
            f"the dtype policy of Keras is {policy}; call "
            "keras.config.set_dtype_policy('float32'), and choose bfloat16 by precision"
        )
