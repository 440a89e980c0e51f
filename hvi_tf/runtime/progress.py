"""Progress on a terminal as a bar, in a pipe or log file as one line per epoch."""

import sys
import time

from tqdm import tqdm


def duration(seconds: float) -> str:
    """`h:mm:ss`, or `m:ss` below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def counted(count: int, noun: str) -> str:
    """Returns a count with its noun: `1 image`, `2 images`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Progress:
    """One stage of work (an epoch, an evaluation) of `total` units.

    Args:
        title: what the line begins with.
        unit: the noun of what is counted, in the plural.
        total: units in this stage.
        done: units already done when it begins.
    """

    def __init__(self, title: str, unit: str, total: int, done: int = 0) -> None:
        self._title, self._unit, self._total = title, unit, total
        self._first = self._done = done
        self._start = time.monotonic()
        self._bar = (
            tqdm(
                total=total,
                initial=done,
                desc=title,
                unit=unit,
                file=sys.stdout,
                dynamic_ncols=True,
                bar_format="{desc} {bar:20} {n_fmt}/{total_fmt} {unit}",
            )
            if sys.stdout.isatty()
            else None
        )

    @property
    def rate(self) -> float:
        """Units per second since this stage began."""
        elapsed = time.monotonic() - self._start
        return (self._done - self._first) / elapsed if elapsed > 0 else float("inf")

    def update(self, count: int, left_after: int = 0, **values: float) -> None:
        """Adds `count` units. `left_after`: units of later stages, for the time left."""
        self._done += count
        if self._bar is not None:
            # As the unit, because tqdm puts a comma before what it calls the postfix.
            self._bar.unit = self._describe(left_after, values)
            self._bar.update(count)

    def tell(self, line: str) -> None:
        """Prints a line of its own, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)

    def close(self, left_after: int = 0, told: bool = True, **values: float) -> None:
        """Ends the stage, with its final values; untold, no line of it stays in a log."""
        text = self._describe(left_after, values)
        if self._bar is not None:
            self._bar.unit = text
            self._bar.refresh()
            self._bar.close()
        elif told:
            print(f"{self._title} {self._done}/{self._total} {text}", flush=True)

    def _describe(self, left_after: int, values: dict[str, float]) -> str:
        left = (self._total - self._done + left_after) / max(self.rate, 1e-9)
        parts = [f"{self.rate:.1f} {self._unit}/s", f"{duration(left)} left"]
        return "  ".join([*parts, *(f"{name} {value:.2f}" for name, value in values.items())])
