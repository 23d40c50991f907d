"""Measurements of lungsound: speed beside a peer, and how good detectors and explanations are."""
