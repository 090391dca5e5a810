"""The example pictures come into the input folder once, and a user's own stay."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support import machine

EXAMPLES = machine.ROOT / "assets" / "examples"


@pytest.fixture
def module(nodes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module with an input folder that does not exist yet."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    return nodes.paths.example_inputs


def test_every_picture_carries_its_mask_as_alpha(module: Any, tmp_path: Path):
    module.put()
    written = {path.stem: np.asarray(Image.open(path)) for path in (tmp_path / "input").iterdir()}
    assert set(written) == {module.PREFIX + name for name in module.NAMES}
    photo = np.asarray(Image.open(EXAMPLES / "photo" / "coffee.png"))
    spoon = np.asarray(Image.open(EXAMPLES / "photo" / "coffee_mask.png"))
    assert (written["onereward_photo"][..., :3] == photo).all()
    assert (written["onereward_photo"][..., 3] == 255 - spoon).all()
    assert (written["onereward_photo_text"][..., :3] == photo).all()
    left, top, right, bottom = module.TEXT_AREA
    erased = written["onereward_photo_text"][..., 3] == 0
    assert erased[top:bottom, left:right].all()
    assert erased.sum() == (right - left) * (bottom - top)
    for task in ("extend", "fill", "remove", "text"):
        scene = np.asarray(Image.open(EXAMPLES / "scenes" / f"{task}.png"))
        assert (written[f"onereward_toy_{task}"] == scene).all()


def test_a_picture_that_is_there_stays(module: Any, tmp_path: Path):
    path = tmp_path / "input" / "onereward_photo.png"
    path.parent.mkdir()
    path.write_bytes(b"mine")
    module.put()
    module.put()
    assert path.read_bytes() == b"mine"
    assert len(list(path.parent.iterdir())) == len(module.NAMES)


def test_a_folder_that_cannot_be_written_is_logged(
    module: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "input").write_text("a file where the folder should be")
    module.put()
    assert "example pictures" in caplog.text
    assert len(caplog.records) == 1
