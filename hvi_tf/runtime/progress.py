"""Progress as a bar on a terminal, and as one line per epoch in a pipe or log file."""

import sys
import time

from tqdm import tqdm


def duration(seconds: float) -> str:
    """Returns `h:mm:ss`, or `m:ss` below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def counted(count: int, noun: str) -> str:
    """Returns a count with its noun: `1 image`, `2 images`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Progress:
    """One stage of work (an epoch, an evaluation) of `total` units.

    Args:
        title: first words of the line.
        unit: plural noun of the counted units.
        total: number of units in this stage.
        done: number of units done before this stage began.
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
        """Adds finished units.

        Args:
            count: number of units.
            left_after: number of units in later stages, for the time left.
            **values: values to print next to the progress, by name.
        """
        self._done += count
        if self._bar is not None:
            # The text replaces the unit, because tqdm puts a comma before its postfix.
            self._bar.unit = self._describe(left_after, values)
            self._bar.update(count)

    def print_line(self, line: str) -> None:
        """Prints a separate line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)

    def close(self, left_after: int = 0, printed: bool = True, **values: float) -> None:
        """Ends the stage with its final values; a log gets a line only if `printed`."""
        text = self._describe(left_after, values)
        if self._bar is not None:
            self._bar.unit = text
            self._bar.refresh()
            self._bar.close()
        elif printed:
            print(f"{self._title} {self._done}/{self._total} {text}", flush=True)

    def _describe(self, left_after: int, values: dict[str, float]) -> str:
        left = (self._total - self._done + left_after) / max(self.rate, 1e-9)
        parts = [f"{self.rate:.1f} {self._unit}/s", f"{duration(left)} left"]
        return "  ".join([*parts, *(f"{name} {value:.2f}" for name, value in values.items())])
