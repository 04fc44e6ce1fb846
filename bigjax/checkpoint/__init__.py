"""Checkpoints: written, verified, restored, converted."""
