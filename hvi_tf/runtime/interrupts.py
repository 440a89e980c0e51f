"""Ctrl-C and SIGTERM as a request that the training loop honors between two steps."""

import os
import signal
import threading
import time
from types import FrameType, TracebackType


class Interrupted(Exception):
    """An interruption by the user or a cluster, after everything is saved.

    Args:
        number: number of the signal; None if another worker received it.
    """

    def __init__(self, number: int | None = None) -> None:
        super().__init__()
        self.signal = signal.SIGINT if number is None else number


class StopRequest:
    """A context in which the first SIGINT or SIGTERM only sets `requested`; a second one acts.

    Python runs signal handlers in the main thread, and only after a call into TensorFlow has
    returned. The second signal must not wait for that, so another thread watches for it.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    # Seconds within which two signals count as one, because `timeout` sends SIGTERM twice.
    _TOGETHER = 0.5
    # Seconds that the main thread has to end after the second signal.
    _GRACE = 1.0

    signal: int | None = None  # the signal that was received

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._since: float | None = None  # time of the first handled signal
        self._left = threading.Event()
        self._previous = {s: signal.signal(s, self._handle) for s in self._SIGNALS}
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)  # required by set_wakeup_fd
        self._previous_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=[reader], daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        self._restore()
        signal.set_wakeup_fd(self._previous_writer)
        os.close(self._writer)  # ends the thread

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._since is None:
            self.requested, self.signal, self._since = True, number, now
        elif now - self._since >= self._TOGETHER:
            self._restore()
            signal.raise_signal(number)

    def _watch(self, reader: int) -> None:
        """Ends the process after a second signal, unless the main thread ends it first."""
        first: float | None = None
        while received := os.read(reader, 1):  # the number of a signal, without delay
            now = time.monotonic()
            if received[0] not in self._SIGNALS:
                continue
            if first is None:
                first = now
            elif now - first >= self._TOGETHER and not self._left.wait(self._GRACE):
                os._exit(128 + received[0])
        os.close(reader)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
