"""Trains, evaluates, exports or samples a model: `python -m hvi_tf.main --dataset=mnist`."""

from hvi_tf.cli import main

if __name__ == "__main__":
    main.console()
