"""The verb that continues a prompt with a trained model."""
