"""Losses, objectives, optimisation and the training loop."""
