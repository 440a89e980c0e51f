"""OMNIGLOT at 28x28, the version of Burda, Grosse & Salakhutdinov (2015)."""
