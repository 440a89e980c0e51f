"""Runs experiments: `python -m hvi_tf.reproduce laplace --preset=quick`."""

from absl import flags

from hvi_tf.cli import exits, reproduce

if __name__ == "__main__":
    reproduce.define_flags()
    flags.adopt_module_key_flags(reproduce)
    exits.start(reproduce.main, reproduce.__doc__)
