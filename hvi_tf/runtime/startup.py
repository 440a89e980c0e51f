"""What a command takes until its first training step, and how less of it is imported."""

import contextlib
import os
import pathlib
import sys
import time
from collections.abc import Iterator

from hvi_tf.errors import KerasError, first_line


class StartUp:
    """A stopwatch whose laps are the parts of a start: they add up to the whole.

    Args:
        began: when the command did, on the clock of `time.monotonic`.
    """

    def __init__(self, began: float) -> None:
        self.began = self._last = began
        self.parts: dict[str, float] = {}

    def lap(self, part: str) -> None:
        """What has passed since the last lap went into `part`."""
        now = time.monotonic()
        self.parts[part] = now - self._last
        self._last = now

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self.parts.items())
        return f"First step after {self._last - self.began:.1f} s ({parts})."


def process_began() -> float:
    """When this process did, on the clock of `time.monotonic`; now, if the system does not tell.

    The interpreter is at work before its clock can be read.
    """
    now = time.monotonic()
    try:
        fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])  # `starttime` of proc(5), since the machine's start
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError, ValueError, AttributeError):
        return now
    return now - max(age, 0.0)


@contextlib.contextmanager
def without_matplotlib() -> Iterator[None]:
    """Lets Keras be imported as if matplotlib, which it takes half a second for, were not there.

    Keras does without: only its own plotting functions, of which nothing here makes use, ask.
    """
    if "matplotlib" in sys.modules:
        yield
        return
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["matplotlib"]


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
