"""Judge node: a vision-language model on an OpenAI-compatible server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ...fill.io.json_text import quote
from ...reward.cards.find_card import bundled_cards
from ...reward.remote.remote_config import RemoteConfig, check_url, is_this_computer
from ...reward.remote.remote_judge import RemoteJudge
from ..comfy_host import ComfyHost
from ..inputs import advanced, config_inputs, output, search_aliases
from ..node import OneRewardNode, given
from ..paths import folders
from ..socket_types import JudgeSocket

RARE = ("max_pixels", "max_tokens", "timeout", "retries", "concurrency", "top_logprobs")
"""Inputs that few people need."""
BY_NAME = "by the model's name"


class OneRewardRemoteJudge(OneRewardNode):
    """Takes a model on a server as the judge."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="OneRewardRemoteJudge",
            display_name="OneReward Remote Judge",
            category="OneReward/loaders",
            description="Takes a vision-language model on a server with the API of OpenAI and "
            "log-probabilities (vLLM, SGLang, llama.cpp, hosted) as the judge: for scoring, "
            "choosing and labelling, not for gradients. It sends the images there.",
            **search_aliases("OpenAI API", "vLLM", "SGLang", "llama.cpp", "VLM server", "LLM API"),
            inputs=[
                *advanced(*config_inputs(RemoteConfig), names=RARE),
                io.Combo.Input(
                    "card",
                    options=[BY_NAME, *bundled_cards(), *_own_cards()],
                    default=BY_NAME,
                    optional=True,
                    tooltip="How the model is asked and read: the card that knows its name, else "
                    "the built-in question of OneReward; or this card, bundled or a file "
                    "judge_card.json or the like in models/onereward.",
                ),
            ],
            outputs=[
                output(
                    JudgeSocket,
                    "remote_judge",
                    "For the nodes of OneReward/judge and data, and for evaluation.",
                    "judge",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, **values: Any) -> bool:
        """Refuse before the queue an address that is none, and a key in place of a name."""
        settings = given(values)
        if "card" in settings:
            settings["card"] = _card(settings["card"])
        if "model" in settings:
            RemoteConfig(**settings)
        RemoteConfig.check(settings)
        return True

    @classmethod
    def execute(cls, card: str = BY_NAME, **settings: Any) -> io.NodeOutput:
        """Ask the server one question and return the judge."""
        host = ComfyHost(cls.hidden.unique_id)
        config = RemoteConfig(card=_card(card), **settings)
        judge = RemoteJudge(config, host.check_cancelled)
        url = check_url(config.base_url)
        if (
            config.key_variable
            and url.scheme == "http"
            and not is_this_computer(url.hostname or "")
        ):
            host.notify(f"the key goes to {url.hostname} unencrypted; use an https address")
        judge.check()
        host.notify(f"{config.model} answers; asked as card {judge.card.name} says")
        return io.NodeOutput(judge)


def _own_cards() -> dict[str, Path]:
    """Return the user's cards by their names in the list."""
    roots = map(Path, folder_paths.get_folder_paths(folders.OUR_FOLDER))
    return {path.name: path for root in roots for path in sorted(root.glob("*.json"))}


def _card(name: str) -> str:
    """Return the card's name or file, empty for that of the model's name.

    Raises:
        FileNotFoundError: There is none of this name.
    """
    if name == BY_NAME or name in bundled_cards():
        return "" if name == BY_NAME else name
    if name not in _own_cards():
        raise FileNotFoundError(
            f"there is no card {quote(name)}; put it into models/onereward and press R"
        )
    return str(_own_cards()[name])
