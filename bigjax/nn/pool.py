"""Pooling over channels-last images and series, with the arguments and results of flax.linen's."""
import flax.linen as nn

max_pool = nn.max_pool
avg_pool = nn.avg_pool
