"""The commands: their flags, modes and exit codes."""
