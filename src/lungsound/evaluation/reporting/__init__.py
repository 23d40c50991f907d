"""The page, the pictures and the model card of a trained run."""
