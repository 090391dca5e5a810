"""Masks and pictures as people save them: what was painted comes out, whatever the file's mode."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from onereward.fill.image.mask import clean_mask
from onereward.fill.io.photo import read_photo
from onereward.fill.task import Task
from onereward.training.data.conditions import read_image
from onereward.training.data.edit_dataset import EditDatasetConfig, make_edit_dataset
from support.recording_host import RecordingHost

SIZE = 64
PAINTED = np.zeros((SIZE, SIZE), dtype=bool)
PAINTED[16:40, 20:44] = True
EMPTY = np.zeros((SIZE, SIZE), dtype=np.uint8)


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values)


def _layer(colour: tuple[int, int, int], hidden: tuple[int, int, int]) -> Image.Image:
    """A transparent layer with strokes; editors leave any colour under what is transparent."""
    pixels = np.zeros((SIZE, SIZE, 4), dtype=np.uint8)
    pixels[..., :3] = hidden
    pixels[PAINTED] = (*colour, 255)
    return Image.fromarray(pixels)


def _brush(colour: tuple[int, int, int]) -> Image.Image:
    pixels = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    pixels[PAINTED] = colour
    return Image.fromarray(pixels)


def _palette() -> Image.Image:
    image = Image.fromarray(PAINTED.astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0])
    return image


MASKS = {
    "8 bits": _grey(PAINTED.astype(np.uint8) * 255),
    "1 bit": _grey(PAINTED.astype(np.uint8) * 255).convert("1"),
    "16 bits": _grey(PAINTED.astype(np.uint16) * 65535),
    "16 bits with a haze of 0.9 %": _grey(np.where(PAINTED, 65535, 590).astype(np.uint16)),
    "32 bits": _grey(PAINTED.astype(np.int32) * 65535),
    "float 0..1": _grey(PAINTED.astype(np.float32)),
    "float 0..255": _grey(PAINTED.astype(np.float32) * 255),
    "labels 0 and 1": _grey(PAINTED.astype(np.uint8)),
    "labels 0 and 1 in 16 bits": _grey(PAINTED.astype(np.uint16)),
    "palette": _palette(),
    "white on a white transparent layer": _layer((255, 255, 255), (255, 255, 255)),
    "white on a black transparent layer": _layer((255, 255, 255), (0, 0, 0)),
    "black on a transparent layer": _layer((0, 0, 0), (0, 0, 0)),
    "red brush": _brush((255, 0, 0)),
    "blue brush": _brush((0, 0, 255)),
    "brush of 40 %": _grey(PAINTED.astype(np.uint8) * 102),
}
EACH_MASK = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)


@EACH_MASK
def test_a_mask_is_what_was_painted(mask: Image.Image, tmp_path: Path):
    end = ".tif" if mask.mode in ("I", "F") else ".png"
    Image.new("RGB", (SIZE, SIZE), "gray").save(tmp_path / "a.png")
    mask.save(tmp_path / f"a_mask{end}")
    from_folder = read_photo(tmp_path / "a.png").mask
    assert from_folder is not None
    for read in (from_folder, read_image(tmp_path / f"a_mask{end}", "L")):
        clean = clean_mask(read)
        assert np.array_equal(clean.solid.numpy() > 0, PAINTED)
        assert not clean.soft.numpy()[~PAINTED].any()


@EACH_MASK
def test_a_data_set_keeps_what_was_painted(mask: Image.Image, tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    Image.linear_gradient("L").resize((SIZE, SIZE)).save(source / "a.png")
    mask.save(source / ("a_mask.tif" if mask.mode in ("I", "F") else "a_mask.png"))
    config = EditDatasetConfig(task=Task.REMOVE.value, max_side=SIZE)
    dataset = make_edit_dataset(tmp_path / "made", source, config, RecordingHost())
    _, stored = dataset.images(dataset.conditions[0])
    assert np.array_equal(stored[0].numpy() > 0.5, PAINTED)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
def test_grey_pictures_keep_their_tones(dtype: type, tmp_path: Path):
    ramp = np.linspace(0, 1, SIZE * SIZE).reshape(SIZE, SIZE)
    limit = {np.uint8: 255, np.uint16: 65535, np.int32: 65535, np.float32: 1}[dtype]
    path = tmp_path / "a.tif"
    Image.fromarray((ramp * limit).astype(dtype)).save(path)
    for pixels in (read_photo(path).pixels, read_image(path)):
        assert pixels.shape == (SIZE, SIZE, 3)
        assert (pixels - torch.from_numpy(ramp)[..., None].float()).abs().max() < 0.005


def test_values_that_are_no_numbers_are_black(tmp_path: Path):
    values = np.full((SIZE, SIZE), 0.5, dtype=np.float32)
    values[0, :2] = np.nan, np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    pixels = read_image(tmp_path / "a.tif")
    assert (pixels[0, :2] == 0).all()
    assert (pixels[1:] - 0.5).abs().max() < 0.01
