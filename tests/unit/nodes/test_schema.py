"""What the nodes promise: ids, inputs and their order, and that inputs are the configs' fields."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import fields
from types import ModuleType
from typing import Any

import pytest

from onereward.fill.config import FillConfig, ModelConfig
from onereward.reward.judge import JudgeConfig
from onereward.training.data.edit_dataset import EditDatasetConfig
from onereward.training.data.label import LabelConfig
from onereward.training.evaluation.config import EvalConfig
from onereward.training.judge.config import JudgeTrainConfig
from onereward.training.judge.report import ReportConfig
from support.promises import OUTPUTS, PROMISED


CATEGORIES = {"edit", "loaders", "judge", "data", "training", "native"}


@pytest.fixture
def classes(nodes: ModuleType) -> dict[str, Any]:
    listed = asyncio.run(nodes.OneRewardExtension().get_node_list())
    return {node.GET_SCHEMA().node_id: node for node in listed}


def test_ids_are_those_promised(classes: dict[str, Any]):
    assert set(classes) == set(PROMISED)
    assert all(node.__name__ == node_id for node_id, node in classes.items())


@pytest.mark.parametrize("node_id", PROMISED)
def test_inputs_and_outputs_keep_their_order(classes: dict[str, Any], node_id: str):
    schema = classes[node_id].GET_SCHEMA()
    assert [i.id for i in schema.inputs] == PROMISED[node_id]
    assert [(o.id, o.display_name) for o in schema.outputs] == OUTPUTS[node_id]


@pytest.mark.parametrize("node_id", PROMISED)
def test_everything_is_named_and_explained(classes: dict[str, Any], node_id: str):
    schema = classes[node_id].GET_SCHEMA()
    assert schema.display_name.startswith("OneReward ")
    assert schema.category.removeprefix("OneReward/") in CATEGORIES
    assert schema.description
    for thing in (*schema.inputs, *schema.outputs):
        assert thing.display_name or thing in schema.inputs, thing.id
        assert thing.display_name != thing.id or thing in schema.outputs, f"{thing.id} says its name twice"
        assert (thing.tooltip or "").endswith("."), thing.id


@pytest.mark.parametrize("node_id", PROMISED)
def test_optional_inputs_come_last_and_have_defaults(classes: dict[str, Any], node_id: str):
    schema = classes[node_id].GET_SCHEMA()
    optional = [i.optional for i in schema.inputs]
    assert optional == sorted(optional)  # the front end would put them there anyway
    parameters = inspect.signature(classes[node_id].execute).parameters
    takes_rest = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for given in schema.inputs:
        if given.id in parameters:
            has_default = parameters[given.id].default is not inspect.Parameter.empty
            assert has_default or not given.optional, given.id
        else:
            assert takes_rest, given.id


LAST_SETTINGS = ["kernels", "offload", "memory_limit"]


@pytest.mark.parametrize(
    ("node_id", "config", "names"),
    [
        ("OneRewardSettings", FillConfig, [f.name for f in fields(FillConfig)]),
        ("OneRewardLoadModel", ModelConfig, ["recipe", "precision", *LAST_SETTINGS]),
        ("OneRewardEditDataset", EditDatasetConfig, [f.name for f in fields(EditDatasetConfig)]),
        ("OneRewardLoadJudge", JudgeConfig, ["precision", "max_pixels", "liger_kernel"]),
        ("OneRewardLabelPreferences", LabelConfig, [f.name for f in fields(LabelConfig)]),
        ("OneRewardJudgeReport", ReportConfig, [f.name for f in fields(ReportConfig)]),
        ("OneRewardEvaluate", EvalConfig, [f.name for f in fields(EvalConfig)]),
        (
            "OneRewardTrainJudge",
            JudgeTrainConfig,
            [f.name for f in fields(JudgeTrainConfig) if "help" in f.metadata],
        ),
    ],
)
def test_schema_equals_the_config(
    classes: dict[str, Any], node_id: str, config: Any, names: list[str]
):
    inputs = {i.id: i.as_dict() for i in classes[node_id].GET_SCHEMA().inputs}
    known = {f.name: f for f in fields(config) if "help" in f.metadata}
    assert [name for name in inputs if name in known] == names
    for name in names:
        limits = known[name].metadata
        assert inputs[name]["default"] == known[name].default
        assert inputs[name]["tooltip"] == limits["help"]
        for key in ("min", "max", "step", "options"):
            expected = list(limits[key]) if key == "options" and key in limits else limits.get(key)
            assert inputs[name].get(key) == expected, (name, key)


def test_settings_without_inputs_are_the_defaults(classes: dict[str, Any]):
    assert classes["OneRewardSettings"].execute().args == (FillConfig(),)


def test_seeds_of_edits_can_change_after_each_run_and_those_of_data_stay(classes: dict[str, Any]):
    edits = {f"OneReward{task}" for task in ("Fill", "Extend", "Remove", "Text")}
    for node_id in OUTPUTS:
        inputs = {i.id: i for i in classes[node_id].GET_SCHEMA().inputs}
        if "seed" in inputs:
            # Where nothing is said, the front end changes what is named seed after every run.
            assert inputs["seed"].control_after_generate is (node_id in edits)
