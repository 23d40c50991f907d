"""A trained model behind HTTP: the service, its limits, and the review of a folder by hand."""
