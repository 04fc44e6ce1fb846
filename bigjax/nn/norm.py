"""Normalisation layers."""
import flax.linen as nn

BatchNorm = nn.BatchNorm
