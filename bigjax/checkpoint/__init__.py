"""Checkpoints: written, verified, restored, imported into models."""
