"""Files, locks and the folder of a run."""
