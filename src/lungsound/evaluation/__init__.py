"""Predictions to scores with intervals, and the reports."""
