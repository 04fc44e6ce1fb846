"""The verb that checks machine, data and workdir before a run."""
