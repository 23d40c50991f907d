"""The HTTP service, its limits, and the review of a folder."""
