"""State, step, loop, optimizers, checkpoints and the records of a run."""
