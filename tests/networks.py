"""Networks of any size for tests."""

from typing import Any

from lungsound.models.ast import AudioSpectrogramTransformer


def make_ast(**sizes: Any) -> AudioSpectrogramTransformer:
    """An encoder that is the published one in all that is not given."""
    return AudioSpectrogramTransformer(**{"stride": 10, "norm_eps": 1e-6, "pooling": "class_token", **sizes})
