"""The autoencoder, its training step, and its networks and distributions.

`vae` has the model that is trained, `autoencoder` its densities, `architecture` its networks.
"""

from hvi_tf.runtime import startup

startup.check_keras_backend()
