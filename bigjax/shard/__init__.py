"""The verb that prints where each parameter goes on a mesh."""
