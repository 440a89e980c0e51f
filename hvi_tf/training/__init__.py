"""Training of a run.

`runs` opens the data and trains, `loop` is the loop over epochs, `checkpoints` and `summaries` are
what it writes, `nonfinite` and `recovery` handle a step that is not finite.
"""
