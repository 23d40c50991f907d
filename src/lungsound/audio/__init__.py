"""Sound files to filter banks."""
