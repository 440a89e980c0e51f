"""Prints the bounds of a trained run for several learning rates of SVI."""

from absl import flags

from hvi_tf.cli import exits
from hvi_tf.experiments.bsvi import svi_learning_rate

if __name__ == "__main__":
    flags.adopt_module_key_flags(svi_learning_rate)
    exits.start(svi_learning_rate.main, svi_learning_rate.__doc__)
