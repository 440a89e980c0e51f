"""Trains, evaluates, exports or samples a model: `python -m hvi_tf.main --dataset=mnist`."""

from absl import flags

from hvi_tf.cli import exits, main

if __name__ == "__main__":
    flags.adopt_module_key_flags(main)
    exits.start(main.main, main.__doc__)
