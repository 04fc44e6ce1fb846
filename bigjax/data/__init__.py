"""From files to batches: sources, the order of examples, the pipeline, and where each named data set comes from."""
