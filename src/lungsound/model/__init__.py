"""The Audio Spectrogram Transformer with Patch-Mix."""
