"""Optional packages: imported when they are needed, with one sentence that names the extra which brings them."""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType

from lungsound.errors import SettingsError


@dataclass(frozen=True)
class Extra:
    """An extra of this package: what it brings, what needs it, and what to do `instead` of installing it."""

    packages: tuple[str, ...]
    needed_by: str
    instead: str = ""


EXTRAS = {
    "augment": Extra(
        ("python_stretch",),
        "the waveform changes speed, pitch and warp need",
        ", or leave them out",
    ),
    "av": Extra(("av",), "compressed sound needs", ", or convert it to WAV or FLAC"),
    "baselines": Extra(("transformers",), "ResNet, EfficientNet and the export to transformers need"),
    "hub": Extra(("huggingface_hub",), "models on the Hugging Face Hub need"),
    "onnx": Extra(("onnxruntime", "onnx", "onnxscript"), "fast engines and ONNX files need"),
    "openvino": Extra(("openvino", "onnxruntime", "onnx", "onnxscript"), "OpenVINO's engines and files need"),
    "parquet": Extra(("pyarrow",), "the format parquet needs", ", or choose csv, which has the same columns"),
    "serve": Extra(("fastapi", "uvicorn", "python_multipart", "prometheus_client"), "the service needs"),
}


def is_installed(extra: str) -> bool:
    return all(find_spec(package) is not None for package in EXTRAS[extra].packages)


def require_installed(extra: str) -> None:
    """SettingsError naming the extra when one of its packages is not installed."""
    for package in EXTRAS[extra].packages:
        if find_spec(package) is None:
            raise _missing(package, extra)


def load(module: str, *, extra: str, needed_by: str | None = None) -> ModuleType:
    """Import a module; SettingsError naming the extra when it is not installed.

    `needed_by` ("model.architecture 'resnet18' needs") says more than the extra's own.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise _missing(module.partition(".")[0], extra, needed_by) from None


def _missing(package: str, extra: str, needed_by: str | None = None) -> SettingsError:
    needed_by, instead = needed_by or EXTRAS[extra].needed_by, EXTRAS[extra].instead
    return SettingsError(f"{package} is not installed, which {needed_by}: pip install 'lungsound[{extra}]'{instead}")
