"""Calibrated probabilities: temperature, conformal sets, abstention and operating points, and how good they are."""
