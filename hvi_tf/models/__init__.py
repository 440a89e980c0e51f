"""Models and the networks and distributions that they are made of."""

from hvi_tf.runtime import startup

startup.check_keras_backend()
