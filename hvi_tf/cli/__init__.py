"""The commands: their flags, help, modes and exit codes.

Only these modules, and the commands of other folders, define flags. TensorFlow is imported after
the flags are checked.
"""
