from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from onereward.fill.image.geometry import (
    ANCHORS,
    Box,
    Extension,
    content_size,
    context_box,
    extension_for_aspect,
    padding,
)


@pytest.mark.parametrize(
    ("mask", "image"),
    itertools.product(
        [Box(0, 0, 10, 10), Box(500, 300, 520, 480), Box(990, 790, 1000, 800), Box(0, 0, 1000, 5)],
        [(1000, 800), (4000, 1000)],
    ),
)
@pytest.mark.parametrize("factor", [1.0, 2.0, 20.0])
def test_context_box_holds_the_mask_and_stays_inside(
    mask: Box, image: tuple[int, int], factor: float
) -> None:
    box = context_box(mask, image, factor, 64)
    assert box.union(mask) == box
    assert 0 <= box.left < box.right <= image[0]
    assert 0 <= box.top < box.bottom <= image[1]
    assert box.width >= min(mask.width * factor, image[0])
    assert box.height >= min(mask.height * factor, image[1])
    assert box.width >= min(64, image[0])
    assert box.height >= min(box.width / 2, image[1])


def test_context_box_is_centred_where_there_is_room() -> None:
    assert context_box(Box(100, 100, 120, 120), (400, 400), 3.0, 16) == Box(80, 80, 140, 140)


@pytest.mark.parametrize("width", [40, 64, 640, 1000, 3000])
@pytest.mark.parametrize("height", [64, 900, 1000])
def test_content_size_keeps_aspect_and_comes_near_the_target(width: int, height: int) -> None:
    new_width, new_height = content_size(width, height, 1024, 2.0)
    assert abs(new_width / new_height - width / height) < 0.02 * width / height
    assert new_width <= 2 * width + 1
    area = new_width * new_height
    if width * height * 4 >= 1024**2:
        assert 0.6 * 1024**2 < area < 1.6 * 1024**2


def test_content_size_leaves_nearly_right_crops_alone() -> None:
    assert content_size(1000, 1100, 1024, 2.0) == (1000, 1100)
    assert content_size(64, 70, 64, 1.0) == (64, 70)
    assert content_size(30, 30, 64, 1.0) == (30, 30)


@pytest.mark.parametrize("multiple", [8, 16])
@pytest.mark.parametrize("size", [(16, 17), (64, 64), (1023, 1025)])
def test_padding_is_the_least_that_fits(size: tuple[int, int], multiple: int) -> None:
    right, bottom = padding(*size, multiple)
    assert (size[0] + right) % multiple == (size[1] + bottom) % multiple == 0
    assert 0 <= right < multiple
    assert 0 <= bottom < multiple


@pytest.mark.parametrize("aspect", ["16:9", "1:1", "9:16", "2.35:1"])
@pytest.mark.parametrize("anchor", ANCHORS)
def test_aspect_is_met_without_cropping(aspect: str, anchor: str) -> None:
    across, down = map(float, aspect.split(":"))
    extension = extension_for_aspect(600, 500, aspect, anchor)
    width, height = extension.canvas(600, 500)
    assert abs(width - height * across / down) <= max(1, across / down)
    assert width == 600 or height == 500
    free = {"left": extension.left, "top": extension.top}
    free |= {"right": extension.right, "bottom": extension.bottom}
    assert free.get(anchor, 0) == 0, "the source touches the side it is anchored to"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Extension(), "nothing to extend"),
        (lambda: Extension(left=-1), "left is -1"),
        (lambda: Extension(left=20000).canvas(64, 64), "extended image is 20064x64"),
        (lambda: extension_for_aspect(160, 90, "16:9", "center"), "16:9 already"),
        (lambda: extension_for_aspect(160, 90, "wide", "center"), "W:H such as 16:9"),
        (lambda: extension_for_aspect(160, 90, "1:0", "center"), "W:H such as 16:9"),
        (lambda: extension_for_aspect(160, 90, "1:1", "middle"), "anchor is 'middle'"),
    ],
    ids=["zero", "negative", "huge", "met", "text", "divide", "anchor"],
)
def test_bad_extensions_say_why(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
