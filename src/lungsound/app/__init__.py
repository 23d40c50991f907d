"""What users run: commands and the predictor."""
