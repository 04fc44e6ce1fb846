"""Cloud TPU slices."""
