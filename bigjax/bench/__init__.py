"""The time of a training step, beside a peer's."""
