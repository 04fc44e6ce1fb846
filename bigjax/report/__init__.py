"""Pages, charts and tables from the records of runs."""
