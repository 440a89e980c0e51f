"""Settings of a run: their ranges, their rules and the identity that they give to a run."""
