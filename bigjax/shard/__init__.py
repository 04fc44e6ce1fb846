"""The verb that prints the place of each parameter on a mesh."""
