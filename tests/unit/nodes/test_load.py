"""The loader: one copy of a model in use, and nothing is downloaded before all else is checked."""

from __future__ import annotations

import gc
from pathlib import Path
from types import ModuleType

import pytest

from support.bundled_models import BUNDLED


@pytest.fixture
def model(models_dir: Path) -> str:
    (models_dir / "onereward" / "mine").symlink_to(BUNDLED, target_is_directory=True)
    return "mine"


def test_equal_loaders_share_a_model_in_use(nodes: ModuleType, model: str):
    load = nodes.OneRewardLoadModel.PREPARE_CLASS_CLONE({}).execute
    first = load(model=model, transformer=nodes.paths.folders.FROM_MODEL).args[0]
    assert load(model=model, transformer=nodes.paths.folders.FROM_MODEL).args[0] is first
    flux = load(model=model, transformer=nodes.paths.folders.FROM_MODEL, recipe="OneReward").args[0]
    assert flux is not first
    del first, flux
    gc.collect()
    assert list(nodes.loaders._MODELS.values()) == [nodes.comfy_host.held("fill model")[0]]
    nodes.comfy_host._HELD.clear()
    gc.collect()
    assert len(nodes.loaders._MODELS) == 0


def test_settings_are_checked_before_a_download(
    nodes: ModuleType, models_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(nodes.paths.hub, "download", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(ValueError, match="recipe is 'mine'"):
        nodes.OneRewardLoadModel.PREPARE_CLASS_CLONE({}).execute(
            model="",
            transformer=nodes.paths.folders.FROM_MODEL,
            recipe="mine",
            hub_id="owner/name",
            allow_download=True,
        )


@pytest.mark.parametrize("values", [{"model": None}, {"model": "no-such"}, {}], ids=str)
def test_fingerprint_of_unknown_values_is_constant(
    nodes: ModuleType, models_dir: Path, values: dict[str, str | None]
):
    assert nodes.OneRewardLoadModel.fingerprint_inputs(**values) == ()
    assert nodes.OneRewardLoadAdapter.fingerprint_inputs(**values) == ()
