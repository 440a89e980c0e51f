"""OMNIGLOT at 28x28 pixels, the version of Burda, Grosse & Salakhutdinov (2015)."""
