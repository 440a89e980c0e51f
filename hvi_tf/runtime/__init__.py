"""The machine that a command runs on: devices, replicas, signals and progress."""
