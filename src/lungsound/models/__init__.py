"""The Audio Spectrogram Transformer with Patch-Mix, the convolutional baselines, and pretrained weights."""
