"""What the nodes promise: ids, inputs and their order, and that inputs are the configs' fields."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass, field, fields
from operator import attrgetter
from types import ModuleType
from typing import Any

import pytest

from onereward.fill.config import FillConfig, ModelConfig
from onereward.reward.ensemble import EnsembleConfig
from onereward.reward.judge import JudgeConfig
from onereward.reward.remote.remote_config import RemoteConfig
from onereward.training.data.edit_dataset import EditDatasetConfig
from onereward.training.data.label import LabelConfig
from onereward.training.evaluation.config import EvalConfig
from onereward.training.judge.calibrate import CalibrateConfig
from onereward.training.judge.config import JudgeTrainConfig
from onereward.training.judge.report import ReportConfig
from support.promises import CHOICES, DEFAULTS, OUTPUTS, PROMISED

FROM_DISK = {
    *(("OneRewardLoadModel", name) for name in ("model", "transformer", "vae", "clip", "t5")),
    *(("OneRewardLoadJudge", name) for name in ("judge", "adapter")),
    *(("OneRewardLoadAdapter", "adapter"), ("OneRewardLoadFolder", "folder")),
    ("OneRewardRemoteJudge", "card"),
    *(("OneRewardEditDataset", "images"), ("OneRewardLoadPreferences", "folder")),
}
"""Lists of files and folders."""
CATEGORIES = {"edit", "loaders", "judge", "data", "training", "native"}


@pytest.fixture
def classes(nodes: ModuleType) -> dict[str, Any]:
    node_classes = asyncio.run(nodes.OneRewardExtension().get_node_list())
    return {node.GET_SCHEMA().node_id: node for node in node_classes}


def test_ids_are_those_promised(classes: dict[str, Any]):
    assert set(classes) == set(PROMISED)
    assert all(node.__name__ == node_id for node_id, node in classes.items())


@pytest.mark.parametrize("node_id", PROMISED)
def test_inputs_and_outputs_keep_their_order(classes: dict[str, Any], node_id: str):
    schema = classes[node_id].GET_SCHEMA()
    assert [i.id for i in schema.inputs] == PROMISED[node_id]
    assert [(o.id, o.display_name) for o in schema.outputs] == OUTPUTS[node_id]


@pytest.mark.parametrize("node_id", PROMISED)
def test_defaults_and_choices_are_those_promised(classes: dict[str, Any], node_id: str):
    inputs = {i.id: i.as_dict() for i in classes[node_id].GET_SCHEMA().inputs}
    defaults = {name: i["default"] for name, i in inputs.items() if i.get("default") is not None}
    assert defaults == DEFAULTS.get(node_id, {})
    assert {n: type(v) for n, v in defaults.items()} == {
        n: type(v) for n, v in DEFAULTS.get(node_id, {}).items()
    }
    for name, values in inputs.items():
        if values.get("options") is not None and (node_id, name) not in FROM_DISK:
            assert tuple(values["options"]) == CHOICES[node_id, name], name
    assert {name for owner, name in CHOICES if owner == node_id} <= inputs.keys()


@pytest.fixture
def later_schema(nodes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schemas of a ComfyUI that takes search words."""

    @dataclass
    class LaterSchema(nodes.inputs.io.Schema):
        search_aliases: list[str] = field(default_factory=list)

    monkeypatch.setattr(nodes.inputs.io, "Schema", LaterSchema)


@pytest.mark.usefixtures("later_schema")
@pytest.mark.parametrize("node_id", PROMISED)
def test_search_words_are_given_to_a_comfyui_that_takes_them(classes: dict[str, Any], node_id: str):
    words = classes[node_id].define_schema().search_aliases
    assert words
    assert len(set(words)) == len(words)


SEARCHED = {
    "OneRewardFill": ("inpaint", "inpainting", "generative fill", "replace object", "局部重绘"),
    "OneRewardExtend": ("outpaint", "outpainting", "uncrop", "expand image", "扩图"),
    "OneRewardRemove": ("erase", "eraser", "remove object", "object removal", "消しゴム"),
    "OneRewardText": ("write text", "text rendering", "add text", "typography"),
    "OneRewardStitch": ("crop and stitch",),
    "OneRewardLoadJudge": ("reward model",),
    "OneRewardPickBest": ("best of n", "pick best"),
    "OneRewardTrain": ("RLHF", "LoRA training"),
}


@pytest.mark.usefixtures("later_schema")
@pytest.mark.parametrize(("node_id", "words"), SEARCHED.items())
def test_usual_words_are_among_a_node_s_search_words(
    classes: dict[str, Any], node_id: str, words: tuple[str, ...]
):
    assert set(words) <= set(classes[node_id].define_schema().search_aliases)


RARE = {
    ("settings", "RARE"): ["OneRewardSettings"],
    ("train_judge", "RARE"): ["OneRewardTrainJudge"],
    ("train_policy", "RARE"): ["OneRewardTrain", "OneRewardTrainSettings"],
    ("judges.load_remote", "RARE"): ["OneRewardRemoteJudge"],
}
"""Names of folded inputs, by module, and the nodes that have them."""


def test_folded_inputs_are_inputs_of_their_nodes(nodes: ModuleType):
    for (module, name), node_ids in RARE.items():
        names = {n for node_id in node_ids for n in PROMISED[node_id]}
        assert set(attrgetter(f"{module}.{name}")(nodes)) <= names


def test_inputs_are_marked_where_comfyui_folds_them(nodes: ModuleType):
    first, second = nodes.inputs.side_input("left", ""), nodes.inputs.side_input("top", "")
    first.advanced = second.advanced = None  # as in a ComfyUI that knows the mark
    nodes.inputs.advanced(first, second, names=("top",))
    assert (first.advanced, second.advanced) == (None, True)


def test_what_people_search_for_is_found(classes: dict[str, Any]):
    text = " ".join(node.GET_SCHEMA().description for node in classes.values()).lower()
    for words in (
        *(
            "inpainting",
            "outpainting",
            "generative fill",
            "object removal",
            "text rendering",
            "logo",
        ),
        *("lora adapter", "rlhf", "reward model", "preference data"),
    ):
        assert words in text, words


@pytest.mark.parametrize("node_id", PROMISED)
def test_everything_is_named_and_explained(classes: dict[str, Any], node_id: str):
    schema = classes[node_id].GET_SCHEMA()
    assert schema.display_name.startswith("OneReward ")
    assert schema.category.removeprefix("OneReward/") in CATEGORIES
    assert schema.description
    for thing in (*schema.inputs, *schema.outputs):
        assert thing.display_name or thing in schema.inputs, thing.id
        assert thing.display_name != thing.id or thing in schema.outputs, (
            f"{thing.id} says its name twice"
        )
        assert (thing.tooltip or "").endswith("."), thing.id


@pytest.mark.parametrize("node_id", PROMISED)
def test_optional_inputs_come_last_and_have_defaults(classes: dict[str, Any], node_id: str):
    schema = classes[node_id].GET_SCHEMA()
    optional = [i.optional for i in schema.inputs]
    assert optional == sorted(optional)  # the front end would put them there anyway
    parameters = inspect.signature(classes[node_id].execute).parameters
    takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for declared in schema.inputs:
        if declared.id in parameters:
            has_default = parameters[declared.id].default is not inspect.Parameter.empty
            assert has_default or not declared.optional, declared.id
        else:
            assert takes_more, declared.id


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
            "OneRewardRemoteJudge",
            RemoteConfig,
            [f.name for f in fields(RemoteConfig) if f.metadata],
        ),
        ("OneRewardCalibrateJudge", CalibrateConfig, [f.name for f in fields(CalibrateConfig)]),
        ("OneRewardEnsembleJudges", EnsembleConfig, ["combine"]),
        ("OneRewardJudgeFromNative", JudgeConfig, ["max_pixels"]),
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
    settings = {f.name: f for f in fields(config) if "help" in f.metadata}
    assert [name for name in inputs if name in settings] == names
    for name in names:
        limits = settings[name].metadata
        assert inputs[name]["default"] == settings[name].default
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
