"""Scores of a trained model.

`evaluate` chooses one of the estimators (`scorers`, `adaptive`, `by_annealing`,
`by_saved_model`), `jobs` runs it and resumes it, `summary` and `table` show the result.
"""
