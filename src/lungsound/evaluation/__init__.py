"""Predictions to scores with intervals, and the report."""
