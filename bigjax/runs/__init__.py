"""The records of a run in its workdir: writing, reading, locking."""
