"""Workflows of the older pack: its nodes become ours, in a ComfyUI that replaces nodes."""

from __future__ import annotations

import asyncio
import importlib
from types import ModuleType
from typing import Any

import pytest

SAMPLER = {
    "pipe": ["1", 0],
    "image": ["2", 0],
    "mask": ["2", 1],
    "prompt": "a red hat",
    "negative_prompt": "nsfw",
    "guidance_scale": 1.0,
    "true_cfg": 4.0,
    "num_inference_steps": 50,
    "seed": 7,
}
"""Inputs of the older pack's sampler, as its release has them."""
LOADER = {
    "model_path": "bytedance-research/OneReward",
    "base_model_path": "black-forest-labs/FLUX.1-Fill-dev",
    "model_type": "OneReward",
}


@pytest.fixture
def replacements(nodes: ModuleType) -> ModuleType:
    del nodes  # for the import of ComfyUI
    return importlib.import_module("onereward.nodes.replacements")


def test_every_required_input_has_a_value(replacements: ModuleType):
    for old, old_inputs in zip(replacements.OLD_NODES, (LOADER, SAMPLER), strict=True):
        inputs = {i.id: i for i in old.replacement.GET_SCHEMA().inputs}
        mapping = {entry["new_id"]: entry for entry in old.mapping()}
        assert mapping.keys() <= inputs.keys()
        assert {name for name, i in inputs.items() if not i.optional} <= mapping.keys()
        assert {e["old_id"] for e in mapping.values() if "old_id" in e} <= old_inputs.keys()
        assert set(old.widgets) - {"control_after_generate"} <= old_inputs.keys()


def test_a_comfyui_without_replacements_is_left_alone(
    replacements: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(replacements.io, "NodeReplace", raising=False)
    asyncio.run(replacements.register_replacements())


def test_a_prompt_of_the_older_pack_becomes_ours(
    nodes: ModuleType, replacements: ModuleType, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("app.node_replace_manager", reason="this ComfyUI replaces no nodes")
    manager = importlib.import_module("app.node_replace_manager").NodeReplaceManager()
    server: Any = type("Server", (), {"node_replace_manager": manager})
    monkeypatch.setattr(
        importlib.import_module("server").PromptServer, "instance", server, raising=False
    )
    asyncio.run(nodes.OneRewardExtension().on_load())
    classes = {old.replacement.__name__: old.replacement for old in replacements.OLD_NODES}
    core = importlib.import_module("nodes")
    monkeypatch.setattr(core, "NODE_CLASS_MAPPINGS", core.NODE_CLASS_MAPPINGS | classes)
    prompt = {
        "1": {"class_type": "OneRewardModelLoader", "inputs": LOADER, "_meta": {}},
        "3": {"class_type": "OneRewardSampler", "inputs": SAMPLER, "_meta": {}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}, "_meta": {}},
    }
    manager.apply_replacements(prompt)
    assert prompt["1"]["class_type"] == "OneRewardLoadModel"
    assert prompt["1"]["inputs"].keys() >= {"model", "transformer"}
    assert prompt["3"]["class_type"] == "OneRewardFill"
    assert prompt["3"]["inputs"] == {
        "model": ["1", 0],
        "image": ["2", 0],
        "mask": ["2", 1],
        "prompt": "a red hat",
        "seed": 7,
    }
    assert prompt["4"]["inputs"] == {"images": ["3", 0]}
