"""The verb that judges the newest checkpoint of a run."""
