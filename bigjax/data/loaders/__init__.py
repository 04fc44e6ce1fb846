"""One file per format, and where each named data set comes from."""
