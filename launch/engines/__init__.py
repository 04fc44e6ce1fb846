"""One engine per file or folder: where a job runs."""
