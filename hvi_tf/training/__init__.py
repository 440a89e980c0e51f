"""Training of a run.

`runs` opens the data and trains. `loop` is the loop over epochs, and `checkpoints` and `summaries`
write its files. `nonfinite` and `recovery` handle a step that is not finite.
"""
