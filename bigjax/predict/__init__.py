"""The verb that applies a trained model to files, folders and texts."""
