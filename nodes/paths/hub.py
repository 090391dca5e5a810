"""Downloads a model from the Hugging Face Hub, only when the user switched that on."""

from __future__ import annotations

import re

from ...fill.host import Host
from ...fill.io.json_text import quote
from .folders import OUR_FOLDER, download_folder

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
# Weights in the top folder are single-file copies of the same model in another format.
PATTERNS = ["*.json", "*.txt", "*/*.model", "*/*.safetensors"]


def check_download(hub_id: str, allow_download: bool) -> None:
    """Refuse a malformed id, or an id without the switch, with ValueError."""
    if not HUB_ID.fullmatch(hub_id):
        raise ValueError(f"hub_id is {quote(hub_id)}, but owner/name is expected")
    if not allow_download:
        raise ValueError(
            f"hub_id is {hub_id} but allow_download is off; switch it on to download this model, "
            "or clear hub_id to use the chosen model"
        )


def download(hub_id: str, host: Host) -> None:
    """Bring a repository's diffusers folders into ``models/onereward``.

    Raises:
        RuntimeError: The Hub cannot be reached or refuses; the message says what to do.
        FileNotFoundError: The repository holds no whole model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    folder = download_folder(hub_id)
    host.notify(f"downloading {hub_id} to {folder}")
    try:
        snapshot_download(hub_id, local_dir=folder, allow_patterns=PATTERNS)
    except GatedRepoError as error:
        raise RuntimeError(
            f"{hub_id} asks for its licence to be accepted; do so on its page on the Hub, log in "
            "with `hf auth login` and run again"
        ) from error
    except RepositoryNotFoundError as error:
        raise RuntimeError(f"{hub_id} is not on the Hub (or is private); check hub_id") from error
    except OSError as error:  # also every HTTP and offline error of huggingface_hub
        raise RuntimeError(
            f"{hub_id} could not be downloaded ({_first_line(error)}); check the connection and "
            f"run again, or put the model into models/{OUR_FOLDER} by hand and clear hub_id"
        ) from error
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"{hub_id} is downloaded but is no whole model; clear hub_id, press R to refresh the "
            "lists and choose its folder as transformer"
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
