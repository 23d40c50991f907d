"""Optional packages and the model in the box: imported when needed; a missing one is one sentence on how to add it."""

import importlib
import os
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from lungsound.errors import SettingsError


class Extra(NamedTuple):
    """An extra of this package: what it brings, and what needs it."""

    packages: tuple[str, ...]
    needed_by: str


EXTRAS = {
    "augment": Extra(("python_stretch",), "the waveform changes speed, pitch and warp need"),
    "av": Extra(("av",), "compressed sound needs"),
    "baselines": Extra(("transformers",), "ResNet, EfficientNet and the export to transformers need"),
    "hub": Extra(("huggingface_hub",), "models on the Hugging Face Hub need"),
    "onnx": Extra(("onnx", "onnxscript"), "the export of graphs needs"),
    "openvino": Extra(("openvino",), "OpenVINO's engines and files need"),
    "remote": Extra(("fsspec", "aiohttp", "s3fs"), "corpora at a URI need"),
    "parquet": Extra(("pyarrow",), "the format parquet needs"),
    "ray": Extra(("ray", "pyarrow", "fsspec"), "a cluster needs"),
    "train": Extra(
        ("torch", "scipy", "matplotlib", "tensorboardX"), "training, evaluating, explaining and exporting need"
    ),
    "serve": Extra(("fastapi", "uvicorn", "python_multipart", "prometheus_client"), "the service needs"),
}

BOX = "box"  # wherever a model is named; a folder of that name is ./box
BOX_PACKAGE, BOX_DISTRIBUTION = "lungsound_box", "lungsound-box"

# Read when the packages are first imported: by default ONNX Runtime reports its use to Microsoft (from 1.29 on, and an
# identifier is written to the disk), the Hub's library its versions. Predictions are nobody's business.
TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def is_installed(extra: str) -> bool:
    return all(find_spec(package) is not None for package in EXTRAS[extra].packages)


def require_installed(extra: str) -> None:
    """SettingsError naming the extra when one of its packages is not installed."""
    for package in EXTRAS[extra].packages:
        if find_spec(package) is None:
            raise _missing(package, extra)


def load(module: str, *, extra: str | None, needed_by: str | None = None) -> ModuleType:
    """Import a module, telemetry off; SettingsError naming the extra and what it is `needed_by` when it is missing.

    extra: None for what every installation has.
    """
    for name, value in TELEMETRY.items():
        os.environ.setdefault(name, value)
    try:
        return importlib.import_module(module)
    except ImportError:
        if extra is None:
            raise
        raise _missing(module.partition(".")[0], extra, needed_by) from None


def of_missing(error: ModuleNotFoundError) -> SettingsError | None:
    """The sentence that names the extra of a package that is not installed; None for one of no extra."""
    package = (error.name or "").partition(".")[0]
    return next((_missing(package, name) for name, extra in EXTRAS.items() if package in extra.packages), None)


def _missing(package: str, extra: str, needed_by: str | None = None) -> SettingsError:
    needed_by = needed_by or EXTRAS[extra].needed_by
    return SettingsError(f"{package} is not installed, which {needed_by}: pip install 'lungsound[{extra}]'")


def box_file() -> Path:
    """Model file of the distribution lungsound-box. SettingsError where it is not installed."""
    spec = find_spec(BOX_PACKAGE)
    folders = [] if spec is None else [Path(each) for each in spec.submodule_search_locations or ()]
    for folder in folders:
        if (file := folder / "model.safetensors").is_file():
            return file
    raise SettingsError(
        "the model in the box is not installed: run scripts/setup in a checkout, elsewhere pip install the wheel of "
        "its folder box, or name another model (a run folder, a model file, or hf://OWNER/NAME)"
    )
