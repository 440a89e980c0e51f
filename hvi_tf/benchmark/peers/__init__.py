"""The same training step of IWHVI in PyTorch and JAX, for comparison."""
