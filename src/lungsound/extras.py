"""Packages that not everybody has, imported when they are needed."""

import importlib
from importlib.util import find_spec
from types import ModuleType

from lungsound.errors import SettingsError

# What each engine of an extra imports, first the one that it cannot do without in any case.
EXTRAS = {
    "onnx": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino", "onnxruntime", "onnx", "onnxscript"),
    "serve": ("fastapi", "uvicorn", "python_multipart", "prometheus_client"),
}
# What an extra is for, in the sentence that asks for it.
PURPOSES = {
    "onnx": "fast engines and ONNX files need",
    "openvino": "OpenVINO's engines and files need",
    "hub": "models on the Hugging Face Hub need",
    "baselines": "the export to transformers needs",
    "serve": "the service needs",
}


def is_installed(extra: str) -> bool:
    return all(find_spec(package) is not None for package in EXTRAS[extra])


def require_installed(extra: str) -> None:
    """SettingsError naming the extra when one of its packages is not installed."""
    for package in EXTRAS[extra]:
        if find_spec(package) is None:
            raise _missing(package, extra)


def load(module: str, *, extra: str) -> ModuleType:
    """The module; SettingsError naming the extra and what it is for (`PURPOSES`) when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise _missing(module.partition(".")[0], extra) from None


def _missing(package: str, extra: str) -> SettingsError:
    return SettingsError(f"{package} is not installed, which {PURPOSES[extra]}: pip install 'lungsound[{extra}]'")
