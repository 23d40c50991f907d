"""Corpora: recordings, cycles, splits, batches."""
