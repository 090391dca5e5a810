"""Judge node: a vision-language model on an OpenAI-compatible server."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...reward.remote.remote_config import RemoteConfig, check_url, is_this_computer
from ...reward.remote.remote_judge import RemoteJudge
from ..comfy_host import ComfyHost
from ..inputs import advanced, config_inputs, output, search_aliases
from ..node import OneRewardNode, given
from ..socket_types import JudgeSocket

RARE = ("max_pixels", "max_tokens", "timeout", "retries", "concurrency", "top_logprobs")
"""Inputs that few people need."""


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
            inputs=[*advanced(*config_inputs(RemoteConfig), names=RARE)],
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
        known = given(values)
        if "model" in known:
            RemoteConfig(**known)
        RemoteConfig.check(known)
        return True

    @classmethod
    def execute(cls, **settings: Any) -> io.NodeOutput:
        """Ask the server one question and return the judge."""
        host, config = ComfyHost(cls.hidden.unique_id), RemoteConfig(**settings)
        judge = RemoteJudge(config, host.check_cancelled)
        url = check_url(config.base_url)
        if (
            config.key_variable
            and url.scheme == "http"
            and not is_this_computer(url.hostname or "")
        ):
            host.notify(f"the key goes to {url.hostname} unencrypted; use an https address")
        judge.check()
        host.notify(f"{config.model} answers with log-probabilities")
        return io.NodeOutput(judge)
