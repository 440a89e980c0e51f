"""How a run proceeds: schedules, the loop, checkpoints and logs."""
