"""Hierarchical variational inference with TensorFlow, Keras and TFP.

Importing this package is cheap: TensorFlow is imported by the modules that need
it, so that `python -m hvi_tf.main --help` answers at once.
"""

__version__ = "0.1.0"
