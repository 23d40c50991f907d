"""Detect crackles and wheezes in chest recordings.

Patch-Mix contrastive learning with an Audio Spectrogram Transformer. Research software, not a medical
device. The public names are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers, which do not follow `_HOMES`
    from lungsound.config import load_config as load_config
    from lungsound.data.corpus import Corpus as Corpus
    from lungsound.data.corpus import Cycle as Cycle
    from lungsound.data.corpus import Recording as Recording
    from lungsound.data.reader import read_corpus as read_corpus
    from lungsound.data.synthetic import synthesize as synthesize
    from lungsound.errors import LungsoundError as LungsoundError
    from lungsound.inference.embed import embed as embed
    from lungsound.inference.estimator import LungSoundClassifier as LungSoundClassifier
    from lungsound.inference.prediction import CyclePrediction as CyclePrediction
    from lungsound.inference.prediction import RecordingPrediction as RecordingPrediction
    from lungsound.inference.predictor import Predictor as Predictor
    from lungsound.recipe import train as train
    from lungsound.training.evaluate import evaluate as evaluate

    __version__: str

_HOMES = {
    "Corpus": "lungsound.data.corpus",
    "Cycle": "lungsound.data.corpus",
    "CyclePrediction": "lungsound.inference.prediction",
    "LungSoundClassifier": "lungsound.inference.estimator",
    "LungsoundError": "lungsound.errors",
    "Predictor": "lungsound.inference.predictor",
    "Recording": "lungsound.data.corpus",
    "RecordingPrediction": "lungsound.inference.prediction",
    "embed": "lungsound.inference.embed",
    "evaluate": "lungsound.training.evaluate",
    "load_config": "lungsound.config",
    "read_corpus": "lungsound.data.reader",
    "synthesize": "lungsound.data.synthetic",
    "train": "lungsound.recipe",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("lungsound")
    if name not in _HOMES:
        raise AttributeError(f"module 'lungsound' has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        raise import_module("lungsound.extras").of_missing(error) or error from None


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
