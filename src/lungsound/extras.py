"""Packages that not everybody has, imported when they are needed."""

import importlib
from importlib.util import find_spec
from types import ModuleType

from lungsound.errors import SettingsError

# What each engine of an extra imports, first the one that it cannot do without in any case.
EXTRAS = {"onnx": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino", "onnxruntime", "onnx", "onnxscript")}
# What an extra is for, in the sentence that asks for it.
PURPOSES = {
    "onnx": "fast engines and ONNX files need",
    "openvino": "OpenVINO's engines and files need",
    "hub": "models on the Hugging Face Hub need",
    "baselines": "the export to transformers needs",
}


def is_installed(extra: str) -> bool:
    return all(find_spec(package) is not None for package in EXTRAS[extra])


def load(module: str, *, extra: str) -> ModuleType:
    """The module; SettingsError naming the extra and what it is for (`PURPOSES`) when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise SettingsError(
            f"{module.partition('.')[0]} is not installed, which {PURPOSES[extra]}: pip install 'lungsound[{extra}]'"
        ) from None
