"""Runs experiments: `python -m hvi_tf.reproduce laplace --preset=quick`."""

from hvi_tf.cli import exits, reproduce

if __name__ == "__main__":
    reproduce.define_flags()
    exits.start(reproduce.main, reproduce.__doc__)
