"""Ctrl-C and SIGTERM as a request that the loop grants between two steps."""

import signal
from types import FrameType, TracebackType


class Interrupted(Exception):
    """The user, or a cluster, asked to stop; everything is saved.

    Args:
        number: of the signal that asked; without one another worker got it.
    """

    def __init__(self, number: int | None = None) -> None:
        super().__init__()
        self.signal = signal.SIGINT if number is None else number


class StopRequest:
    """While entered, the first SIGINT or SIGTERM only sets `requested`; a second one acts."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    signal: int | None = None  # which of the two came

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> "StopRequest":
        self._previous = {s: signal.signal(s, self._handle) for s in self._SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested, self.signal = True, number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
