"""Model families, one file each; a model is a `flax.linen.Module` that returns its output and nothing else."""
