"""One paper a script."""
