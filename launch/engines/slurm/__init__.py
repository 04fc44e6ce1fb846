"""SLURM clusters."""
