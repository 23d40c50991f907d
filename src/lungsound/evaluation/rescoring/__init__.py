"""Every metric in use, from any file of answers or counts, beside the published numbers that it may stand beside."""
