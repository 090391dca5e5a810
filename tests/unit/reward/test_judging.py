"""What the judge gets to see."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from onereward.fill.task import Task
from onereward.reward.judging import View, chosen_queries, measure_views
from onereward.reward.query import MAX_PROMPT, cut_note
from support.recording_host import RecordingHost


def test_the_view_beside_the_source_shows_both_and_marks_the_mask() -> None:
    image, source = torch.full((32, 48, 3), 0.2), torch.full((1, 32, 48, 3), 0.6)
    mask = torch.zeros(1, 32, 48)
    mask[:, 8:16, 8:16] = 1
    pixels = View(kind="image_with_source", mask=mask, source=source).show(image)
    assert pixels.shape == (3, 32, 96)
    assert torch.equal(pixels[:, :, 48:], image.permute(2, 0, 1))
    marked = (pixels[:, :, :48] != 0.6).any(dim=0)
    assert torch.equal(marked, mask[0] > 0)
    assert pixels[0, 10, 10] > pixels[1, 10, 10], "red"
    cropped = View(kind="crop_with_source", mask=mask, source=source)
    box = cropped.box(0, 32, 48)
    assert cropped.show(image).shape == (3, box.height, 2 * box.width)
    assert box.width < 48


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "from above"}, "view is 'from above'; choose one of: full_image;"),
        ({"kind": "crop"}, "needs a mask that is not empty"),
        ({"kind": "image_with_source"}, "needs the source; connect it"),
    ],
)
def test_a_view_without_what_it_shows_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        View(**values)


def test_a_source_of_another_size_is_refused() -> None:
    view = View(kind="image_with_source", source=torch.zeros(1, 16, 16, 3))
    with pytest.raises(ValueError, match="source is 16x16 pixels but the images are 32x32 pixels"):
        view.show(torch.zeros(32, 32, 3))


def test_what_cannot_be_measured_is_said_and_the_rest_stays() -> None:
    images = {"first": torch.rand(2, 32, 32, 3), "second": torch.rand(1, 32, 32, 3)}
    mask = torch.zeros(32, 32)
    mask[8:16, 8:16] = 1
    host = RecordingHost()
    measured = measure_views(images, View(mask=mask, source=torch.rand(1, 32, 32, 3)), "AB", host)
    assert {name: len(m["seam_step"]) for name, m in measured.items()} == {"first": 2, "second": 1}
    assert all("outside_difference" in metrics for metrics in measured.values())
    if importlib.util.find_spec("rapidocr") is None:
        assert any("pip install rapidocr" in line for line in host.lines)
    assert any(line.startswith("second, seam step: ") for line in host.lines)
    wrong = RecordingHost()
    assert measure_views(images, View(mask=mask[:16]), "", wrong) == {}
    assert "not measured: mask has shape [1, 16, 32]" in wrong.lines[0]
    # Load Image gives an empty mask where an image has none.
    assert measure_views(images, View(mask=torch.zeros(64, 64)), "", RecordingHost()) == {}


def test_of_an_endless_prompt_the_start_is_read_and_the_rest_is_said() -> None:
    words = "a red kite " * 20_000
    queries = chosen_queries(Task.FILL, words)
    note = cut_note(queries)
    assert f"{len(words.strip())} characters" in note
    assert f"the first {MAX_PROMPT}" in note
    lengths = {len(query.question()) for query in queries}
    assert max(lengths) < MAX_PROMPT + 300
    short = chosen_queries(Task.FILL, "a red kite")
    assert cut_note(short) == ""
    assert "Prompt: a red kite." in short[0].question()
