"""The pictures of the templates in the documentation show the templates that ship."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from support.scripts import load_script
from support.workflows import templates

screenshots = load_script("screenshots")
RECORD = json.loads((screenshots.FOLDER / screenshots.RECORD).read_text("utf-8"))
HINT = "make the pictures anew: .venv/bin/python scripts/screenshots.py"
MAX_BYTES = 3_000_000


def test_pictures_are_of_the_templates_that_ship():
    assert sorted(RECORD) == sorted(path.stem for path in templates()), HINT


@pytest.mark.parametrize("template", templates(), ids=lambda path: path.stem)
def test_picture_shows_the_nodes_and_widgets_that_ship(template: Path):
    record = dict(RECORD[template.stem])
    moments = record.pop("pictures")
    assert record == screenshots.summary(template), HINT
    assert "before" in moments, HINT
    for moment in moments:
        with Image.open(screenshots.FOLDER / screenshots.picture(template, moment)) as picture:
            assert picture.width == screenshots.WIDTH_PX


def test_pictures_are_small_and_none_is_left_over():
    files = sorted(screenshots.FOLDER.glob("*.webp"))
    names = {
        screenshots.picture(template, moment)
        for template in templates()
        for moment in screenshots.MOMENTS
    }
    assert {path.name for path in files} <= names
    assert sum(path.stat().st_size for path in files) < MAX_BYTES
