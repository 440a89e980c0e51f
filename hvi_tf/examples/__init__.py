"""Models of your own, bounded and fitted with this package.

The examples import TensorFlow at their top, as your code does, so its start is made quiet here.
"""

import sys

from hvi_tf.runtime import startup

startup.quiet_tensorflow(debug="--debug" in sys.argv)
