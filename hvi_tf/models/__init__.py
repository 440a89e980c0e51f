"""Models and the networks and distributions that they are made of."""
