"""Where a remote judge is, and which key its server may get.

A workflow or job only names the environment variable of a key. As workflows come from anybody, the
key goes to this computer, and to the hosts that :data:`HOSTS_VARIABLE` names, and nowhere else.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from ...fill.io.json_text import quote
from ...fill.json_config import JsonConfig, setting

HOSTS_VARIABLE = "ONEREWARD_KEY_HOSTS"
"""Environment variable: hosts that may get a key, with commas between them."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{0,60}(KEY|TOKEN)")
_URL = re.compile(r"[!-~]{1,2000}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteConfig(JsonConfig):
    """Which server to ask, and how. The order of the fields is a promise.

    Example: ``RemoteConfig(base_url="http://localhost:8000/v1", model="Qwen/Qwen3-VL-8B")``.
    """

    base_url: str = setting(
        "http://localhost:8000/v1",
        "Address of the server with the API of OpenAI, to which /chat/completions is added.",
    )
    model: str = setting("", "Name of the vision-language model, as the server calls it.")
    key_variable: str = setting(
        "",
        "Name of the environment variable that holds the server's key, for example "
        "OPENAI_API_KEY; never the key itself. Empty: no key.",
    )
    max_pixels: int = setting(
        512 * 512,
        "Largest image that is sent, in pixels; larger ones are shrunk.",
        min=28 * 28,
        max=1 << 26,
        step=16,
    )
    max_tokens: int = setting(
        1,
        "Tokens that the model may write: 1 for its answer alone, some thousands for a model that "
        "reasons first.",
        min=1,
        max=1 << 16,
        step=1,
    )
    timeout: float = setting(
        60.0, "Seconds that an answer may take.", min=1.0, max=3600.0, step=1.0
    )
    retries: int = setting(
        4,
        "How often a question is asked again if the server is busy, fails or does not answer.",
        min=0,
        max=20,
        step=1,
    )
    concurrency: int = setting(8, "Questions on their way at once.", min=1, max=64, step=1)
    top_logprobs: int = setting(
        20,
        "Likeliest tokens that the server is asked for; Yes and No must be among them.",
        min=2,
        max=20,
        step=1,
    )
    card: str = ""
    """A bundled card's name or a card's file; empty: one that knows the model's name, else the
    built-in one; see :mod:`~..cards`."""

    def __post_init__(self) -> None:
        """Refuse what is out of limits, an address that is none, and a key in place of a name."""
        JsonConfig.__post_init__(self)
        check_url(self.base_url)
        if not self.model.strip():
            raise ValueError("no model is named; give the name that the server has for it")
        # What does not look like a name may be a key, so no message repeats it.
        if self.key_variable and not _VARIABLE.fullmatch(self.key_variable):
            raise ValueError(
                "key_variable must be the name of an environment variable in capitals that ends "
                "with KEY or TOKEN, such as OPENAI_API_KEY; never put a key itself there"
            )


def check_url(text: str) -> SplitResult:
    """Return an address in its parts; ValueError if no server can be asked there.

    Example: ``check_url("http://localhost:8000/v1").hostname``.
    """
    advice = "give one like http://localhost:8000/v1"
    try:
        url = urlsplit(text)
        is_usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_usable, url = False, SplitResult("", "", "", "", "")
    if "@" in url.netloc:  # not repeated: it holds a password
        raise ValueError("base_url holds a user name or password; use key_variable for a key")
    if not is_usable or not _URL.fullmatch(text):
        raise ValueError(f"base_url is {quote(text)}, which is no http or https address; {advice}")
    if url.query or url.fragment:
        raise ValueError(f"base_url goes on after its path, with ? or #; {advice}")
    return url


def read_key(config: RemoteConfig) -> str:
    """Return the key for a server, empty if none is named.

    Raises:
        ValueError: The variable is not set, or the server's host may not get a key.
    """
    if not config.key_variable:
        return ""
    key = os.environ.get(config.key_variable, "").strip()
    if not key:
        raise ValueError(
            f"the environment variable {config.key_variable} is not set; set it to the server's "
            "key and start again, or leave key_variable empty"
        )
    if not key.isascii() or not key.isprintable():
        raise ValueError(f"what {config.key_variable} holds is no key; look at it")
    host = (check_url(config.base_url).hostname or "").lower()
    hosts = {name.strip().lower() for name in os.environ.get(HOSTS_VARIABLE, "").split(",")}
    if host not in hosts and not is_this_computer(host):
        raise ValueError(
            f"{quote(host)} may not get the key in {config.key_variable}; if you trust this host, "
            f"name it in the environment variable {HOSTS_VARIABLE} and start again"
        )
    return key


def is_this_computer(host: str) -> bool:
    """Tell whether a host's name is that of this computer. Example: ``is_this_computer("::1")``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
