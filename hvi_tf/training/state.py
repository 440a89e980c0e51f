"""What a run has to remember beside its tensors."""

import json

import tensorflow as tf

from hvi_tf.config import strict_json


class TrainingState(tf.train.experimental.PythonState):
    """Saved in every checkpoint, so that a resumed run ends as an unbroken one would.

    Attributes:
        best_step: of the best checkpoint, 0 before there is one.
        not_finite: steps of the epoch so far that were not finite.
        sums: of each metric over the others, step by step.
        steps: how many those others are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.best_step = 0
        self.restored = False  # not by a checkpoint of version 0.1, which has none of this
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Forgets the steps of the last epoch."""
        self.sums: dict[str, float] = {}
        self.steps = self.not_finite = 0

    def add(self, metrics: dict[str, float]) -> None:
        """Counts a step."""
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in metrics.items()}
        self.steps += 1

    @property
    def means(self) -> dict[str, float]:
        """Each metric's mean over the steps of the epoch so far."""
        return {name: total / self.steps for name, total in self.sums.items()}

    def serialize(self) -> str:
        """As TensorFlow stores it; JSON gives a float back to the last bit."""
        return json.dumps(
            {
                "best_step": self.best_step,
                "not_finite": self.not_finite,
                "sums": self.sums,
                "steps": self.steps,
            }
        )

    def deserialize(self, text: str) -> None:
        """Takes back what `serialize` has made.

        Raises:
            ValueError: if it is something else.
        """
        found = strict_json.parse(text)
        try:
            self.best_step, self.not_finite = int(found["best_step"]), int(found["not_finite"])
            self.sums = {str(name): float(total) for name, total in found["sums"].items()}
            self.steps = int(found["steps"])
            self.restored = True
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no state of a training: {text[:80]}") from error
