"""Comparisons of the files that two runs leave."""

import numpy as np
import tensorflow as tf


def final_weights(workdir):
    """Returns the variables of the latest checkpoint by name."""
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints"))
    return {
        k: reader.get_tensor(k) for k in reader.get_variable_to_shape_map() if "OBJECT" not in k
    }


def assert_same_weights(one, other):
    """Checks that the latest checkpoints of two working directories are bit-identical."""
    one, other = final_weights(one), final_weights(other)
    assert one.keys() == other.keys()
    assert len(one) > 50
    for name, value in one.items():
        if "save_counter" not in name:  # the number of writes
            np.testing.assert_array_equal(value, other[name], err_msg=name)
