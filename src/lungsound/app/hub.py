"""Model files on the Hugging Face Hub: by the name of their repository."""

import os
import re
from collections.abc import Callable
from pathlib import Path

from lungsound.engines.extras import load
from lungsound.errors import FetchError, SettingsError

OWN_FILE = "lungsound.safetensors"  # where model.safetensors is the one of another library
FILES = (OWN_FILE, "model.safetensors")
SCHEME = "hf://"
NAME = re.compile(r"(?:hf://)?(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w./-]+))?")

Download = Callable[..., str]


def is_hub_name(text: str) -> bool:
    """Whether it names a repository: `hf://owner/name`, or `owner/name` where no file or folder `owner` is here.

    So a mistyped path under a folder that exists asks no server.
    """
    if text.startswith(SCHEME):
        return True
    return NAME.fullmatch(text) is not None and not Path(text.partition("/")[0]).exists()


def download_model(name: str, *, download: Download | None = None) -> Path:
    """Our model file of a repository on the Hub, in the Hub's cache; `name` may have `hf://` before, `@revision` after.

    A repository has it as lungsound.safetensors or model.safetensors. With LUNGSOUND_OFFLINE=1 only the cache is asked.
    `download` stands for huggingface_hub's hf_hub_download. Raises SettingsError for what is no name or without
    huggingface_hub, FetchError when the file cannot be had.
    """
    found = NAME.fullmatch(name)
    if found is None:
        raise SettingsError(f"{name!r} is no name on the Hub: hf://OWNER/NAME or hf://OWNER/NAME@REVISION is needed")
    errors = load("huggingface_hub.errors", extra="hub")
    ask: Download = download or load("huggingface_hub", extra="hub").hf_hub_download
    is_offline = os.environ.get("LUNGSOUND_OFFLINE") == "1"
    for file in FILES:
        try:
            return Path(ask(found["repository"], file, revision=found["revision"], local_files_only=is_offline))
        except errors.EntryNotFoundError as error:
            missing = error
        except (OSError, ValueError) as error:
            raise FetchError(
                f"cannot get {file} of {name} from the Hub ({error}): check the name, try again"
            ) from error
    if isinstance(missing, errors.LocalEntryNotFoundError):
        raise FetchError(f"{name} is not in the Hub's cache and the Hub cannot be asked: connect and try again")
    raise FetchError(f"{name} on the Hub holds none of {', '.join(FILES)}: upload the model file of a run to it")
