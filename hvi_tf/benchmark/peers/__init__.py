"""The same training step of IWHVI in other frameworks, where they are installed."""
