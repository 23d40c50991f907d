"""Hear crackles and wheezes in chest recordings: Patch-Mix contrastive learning with an Audio Spectrogram Transformer.

Research software, not a medical device. The public names are loaded when they are first used.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Corpus": "lungsound.data.corpus",
    "Cycle": "lungsound.data.corpus",
    "CycleAnswer": "lungsound.answers.answer",
    "LungSoundClassifier": "lungsound.app.estimator",
    "LungsoundError": "lungsound.errors",
    "Predictor": "lungsound.app.predictor",
    "Recording": "lungsound.data.corpus",
    "RecordingAnswer": "lungsound.answers.answer",
    "evaluate": "lungsound.scoring",
    "load_config": "lungsound.config",
    "read_corpus": "lungsound.data.reader",
    "synthesize": "lungsound.data.synthetic",
    "train": "lungsound.recipe",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lungsound' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
