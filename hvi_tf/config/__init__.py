"""Settings of a run: their ranges, their rules, and the identity of the run.

`settings` holds every setting as a field with its metadata; `config` builds and validates a
`Config`; `identity` lists the changes that make another run. Nothing here imports TensorFlow.
"""
