"""A trained model on recordings: predictions, engines, exports, explanations."""
