"""Output formats of predictions."""
