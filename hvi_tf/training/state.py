"""The state of a training that is not a tensor."""

import json

import tensorflow as tf

from hvi_tf.config import strict_json


class TrainingState(tf.train.experimental.PythonState):
    """Best step and sums of metrics. Every checkpoint holds them, for a bit-identical resume.

    Attributes:
        best_step: step of the best checkpoint, 0 before there is one.
        not_finite: number of steps of this epoch that were not finite.
        sums: each metric's sum over the finite steps of this epoch, in order.
        steps: number of finite steps of this epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.best_step = 0
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Sets the counts and sums of the epoch to zero."""
        self.sums: dict[str, float] = {}
        self.steps = self.not_finite = 0

    def add(self, metrics: dict[str, float]) -> None:
        """Adds the metrics of a finite step."""
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in metrics.items()}
        self.steps += 1

    @property
    def means(self) -> dict[str, float]:
        """Each metric's mean over the finite steps of this epoch."""
        return {name: total / self.steps for name, total in self.sums.items()}

    def serialize(self) -> str:
        """Returns the text that TensorFlow stores; JSON keeps every bit of a float."""
        return json.dumps(
            {
                "best_step": self.best_step,
                "not_finite": self.not_finite,
                "sums": self.sums,
                "steps": self.steps,
            }
        )

    def deserialize(self, text: str) -> None:
        """Restores the state from a text that `serialize` returned.

        Raises:
            ValueError: if it is another text.
        """
        stored = strict_json.parse(text)
        try:
            self.best_step, self.not_finite = int(stored["best_step"]), int(stored["not_finite"])
            self.sums = {str(name): float(total) for name, total in stored["sums"].items()}
            self.steps = int(stored["steps"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the state of a training: {text[:80]}") from error
