"""The translations: every text of every node, and the same facts as the English."""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from types import ModuleType
from typing import Any

import pytest

from support import machine
from support.promises import PROMISED

LOCALES = machine.ROOT / "locales"
LANGUAGES = ("ja", "zh")
SYNTAX = "{}@|"
"""What the front end's message compiler takes for its own."""
OF_COMFYUI = {"loaders", "training"}
"""Categories that ComfyUI's front end translates."""


TRANSLATED = {
    "OneRewardLoadModel": "08efee33",
    "OneRewardLoadAdapter": "5ab511d1",
    "OneRewardFill": "35d17b3b",
    "OneRewardExtend": "865e3ea8",
    "OneRewardRemove": "71493ea3",
    "OneRewardText": "3470d2e9",
    "OneRewardSettings": "235e37f5",
    "OneRewardLoadJudge": "8ae93880",
    "OneRewardScore": "c57d75cf",
    "OneRewardPickBest": "4601f267",
    "OneRewardNativeInputs": "8a3557a9",
    "OneRewardStitch": "22820290",
    "OneRewardToNative": "be3b5e0f",
    "OneRewardFromNative": "c59d53a9",
    "OneRewardLoadFolder": "9fb0896a",
    "OneRewardEditDataset": "88408670",
    "OneRewardGenerateCandidates": "46765565",
    "OneRewardLabelPreferences": "4999ebef",
    "OneRewardLoadPreferences": "cff7b1c9",
    "OneRewardTrainJudge": "59555aed",
    "OneRewardJudgeReport": "3b2921bf",
    "OneRewardTrain": "918adedb",
    "OneRewardTrainSettings": "147d2364",
    "OneRewardSaveAdapter": "1ef177de",
    "OneRewardEvaluate": "93450b0e",
    "OneRewardRemoteJudge": "71ffaf07",
    "OneRewardCalibrateJudge": "f52869a7",
    "OneRewardEnsembleJudges": "52553b3c",
    "OneRewardJudgeFromNative": "5ad15501",
}
"""What the translations were made from: a checksum of each node's English texts."""


def read(language: str, name: str) -> Any:
    return json.loads((LOCALES / language / name).read_text("utf-8"))


def english(node: Any) -> dict[str, Any]:
    """Return the texts of a node in the form of nodeDefs.json."""
    schema = node.GET_SCHEMA()
    inputs = {i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in schema.inputs}
    outputs = {
        str(number): {"name": o.display_name, "tooltip": o.tooltip}
        for number, o in enumerate(schema.outputs)
    }
    names = {"display_name": schema.display_name, "description": schema.description}
    return names | {"inputs": inputs, "outputs": outputs}


@pytest.fixture(scope="module")
def nodes_in_english(nodes: ModuleType) -> dict[str, Any]:
    classes = asyncio.run(nodes.OneRewardExtension().get_node_list())
    return {node.__name__: english(node) for node in classes}


def texts(node: dict[str, Any]) -> dict[str, str]:
    """Return the texts by their path, such as ``inputs.seed.tooltip``."""
    flat = {key: node[key] for key in ("display_name", "description")}
    for kind in ("inputs", "outputs"):
        for name, entry in node[kind].items():
            flat |= {f"{kind}.{name}.{key}": text for key, text in entry.items()}
    return flat


def facts(text: str) -> set[str]:
    """Return what stays as it is in any language: numbers, names of files, settings and things."""
    words = (word.strip(".,;:()'\"`?!") for word in re.split(r"[\s(]+", text))
    words = (word.removesuffix("'s") for word in words)
    words = (word[:-1] if re.fullmatch(r".*[A-Z]s", word) else word for word in words)
    pattern = r"\d|_|\w/\w|\w\.\w|[A-Z].*[A-Z]"
    return {w for w in words if re.search(pattern, w) and not w.startswith("OneReward/")}


def holds(text: str, fact: str) -> bool:
    return re.search(rf"(?<![\w.-]){re.escape(fact)}(?!\w)", text, re.ASCII) is not None


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_no_other(language: str, nodes_in_english: dict[str, Any]):
    translated = read(language, "nodeDefs.json")
    assert translated.keys() == nodes_in_english.keys()
    for node_id, node in nodes_in_english.items():
        assert texts(translated[node_id]).keys() == texts(node).keys(), node_id
        assert list(translated[node_id]["inputs"]) == PROMISED[node_id]
        for path, text in texts(translated[node_id]).items():
            assert text.strip() == text != "", (node_id, path)
            assert not set(text) & set(SYNTAX), (node_id, path)


def checksum(node: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(texts(node)).encode()):08x}"


def test_translations_were_made_from_these_texts(nodes_in_english: dict[str, Any]):
    checksums = {node_id: checksum(node) for node_id, node in nodes_in_english.items()}
    stale = {n: value for n, value in checksums.items() if TRANSLATED.get(n) != value}
    assert not stale, "translate these nodes' new texts in locales/, then put the checksums above"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("node_id", PROMISED)
def test_facts_are_those_of_the_english(
    language: str, node_id: str, nodes_in_english: dict[str, Any]
):
    translated = texts(read(language, "nodeDefs.json")[node_id])
    for path, text in texts(nodes_in_english[node_id]).items():
        if path.endswith(("tooltip", "description")):
            missing = {fact for fact in facts(text) if not holds(translated[path], fact)}
            assert not missing, (path, translated[path])
            # Small numbers are words in English: "half", "the four tasks".
            numbers = re.findall(r"\d[\d.]*\d", translated[path], re.ASCII)
            invented = {n for n in numbers if n not in text} - {"10"}
            assert not invented, (path, translated[path])


@pytest.mark.parametrize("language", LANGUAGES)
def test_other_nodes_have_their_translated_names(language: str, nodes_in_english: dict[str, Any]):
    translated = read(language, "nodeDefs.json")
    names = {
        node["display_name"]: translated[node_id]["display_name"]
        for node_id, node in nodes_in_english.items()
    }
    assert len(set(names.values())) == len(names)
    pattern = "|".join(sorted(names, key=len, reverse=True))
    for node_id, node in nodes_in_english.items():
        for path, text in texts(node).items():
            for name in re.findall(rf"(?:{pattern})\b", text):
                assert names[name] in texts(translated[node_id])[path], (node_id, path)


@pytest.mark.parametrize("language", LANGUAGES)
def test_categories_are_translated_where_comfyui_does_not(language: str, nodes: ModuleType):
    classes = asyncio.run(nodes.OneRewardExtension().get_node_list())
    categories = {node.GET_SCHEMA().category.removeprefix("OneReward/") for node in classes}
    main = read(language, "main.json")
    assert main.keys() == {"nodeCategories"}
    assert main["nodeCategories"].keys() == categories - OF_COMFYUI


def test_folders_are_those_of_the_languages():
    assert {path.name for path in LOCALES.iterdir()} == set(LANGUAGES)
    files = {path.relative_to(LOCALES).name for path in LOCALES.rglob("*.json")}
    assert files == {"main.json", "nodeDefs.json"}


def test_a_lost_number_is_noticed():
    assert facts("takes about 34 GB; owner/name, 1e-4 for LoRAs (ema_decay), AdamW's.") == {
        *("34", "GB", "owner/name", "1e-4", "LoRA", "ema_decay", "AdamW"),
    }
    assert holds("约占 34 GB", "34")
    assert not holds("约占 340 GB", "34")
    assert not holds("-1 = 无", "1")
