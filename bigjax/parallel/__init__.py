"""The device mesh and the placement of state and batches on it."""
