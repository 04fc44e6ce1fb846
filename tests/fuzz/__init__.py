"""Damaged files for every reader: `python -m tests.fuzz READER --seconds=600 --seed=0`."""
