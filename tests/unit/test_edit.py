"""``onereward edit``: the engine's own image, with everything its file carried."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from onereward import cli
from onereward.fill.config import FillConfig
from onereward.fill.io.photo import list_photos, read_photo, save_photo
from onereward.fill.pipeline import run_fill
from onereward.fill.request import FillRequest
from onereward.fill.task import Task
from support.bundled_models import bundled_models
from support.recording_host import RecordingHost

FAST = ("--set", "steps=2", "--set", "precision=fp32", "--device", "cpu")
ARTIST, ORIENTATION, EXIF_IFD, WIDTH_TAG, LENS_TAG = 0x013B, 0x0112, 0x8769, 0xA002, 0xA434
ROTATED = 6
"""The camera was held on its side: shown turned clockwise by 90 degrees."""
ZOE = "Zoë".encode()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def draw(width: int = 64, height: int = 48) -> Image.Image:
    generator = np.random.default_rng(0)
    small = generator.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def mask_for(image: Image.Image) -> Image.Image:
    mask = Image.new("L", image.size)
    mask.paste(255, (20, 12, 40, 30))
    return mask


def exif(orientation: int = 1) -> bytes:
    data = Image.Exif()
    data[ARTIST] = "Zo??"
    data[ORIENTATION] = orientation
    data.get_ifd(EXIF_IFD)[WIDTH_TAG] = 999
    data.get_ifd(EXIF_IFD)[LENS_TAG] = "50 mm"
    return data.tobytes().replace(b"Zo??", ZOE)  # UTF-8, as many programs write it


def edit(*arguments: object) -> int:
    return cli.main(["edit", *map(str, arguments), *FAST])


@pytest.mark.parametrize("end", [".jpg", ".png", ".webp", ".tif"])
def test_exif_and_colour_profile_are_kept(end: str, tmp_path: Path):
    source = tmp_path / f"a photo{end}"
    draw().save(source, exif=exif(), icc_profile=SRGB, dpi=(300, 300), quality=95)
    photo = read_photo(source)
    save_photo(photo, photo.pixels, tmp_path / "edited" / source.name)
    with Image.open(tmp_path / "edited" / source.name) as image:
        data = image.getexif()
        assert image.info["icc_profile"] == SRGB
        if end in (".jpg", ".png"):
            assert image.info["dpi"][0] == pytest.approx(300, abs=0.1)
        assert end == ".tif" or ZOE in image.info["exif"]
        assert data[ARTIST].startswith("Zo")
        assert data.get_ifd(EXIF_IFD)[LENS_TAG] == "50 mm"
        assert data.get_ifd(EXIF_IFD)[WIDTH_TAG] == 64


def test_a_image_taken_sideways_comes_back_upright(tmp_path: Path):
    source = tmp_path / "sideways.jpg"
    image = draw()
    image.transpose(Image.Transpose.ROTATE_90).save(
        source, exif=exif(ROTATED), quality=100, subsampling=0
    )
    photo = read_photo(source)
    truth = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    assert (photo.pixels - truth).abs().mean() < 0.01
    save_photo(photo, photo.pixels, tmp_path / "upright.png")
    with Image.open(tmp_path / "upright.png") as upright:
        assert upright.size == image.size
        assert upright.getexif().get(ORIENTATION, 1) == 1
        assert ZOE in upright.info["exif"]


def test_a_folder_makes_what_the_engine_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "masks").mkdir()
    image = draw()
    image.save(tmp_path / "a.png")
    mask_for(image).save(tmp_path / "masks" / "a.png")
    erased = image.copy()
    erased.putalpha(mask_for(image).point(lambda value: 255 - value))
    erased.save(tmp_path / "b.png")
    (tmp_path / "b.txt").write_text("a blue square")
    assert [path.name for path in list_photos(tmp_path)] == ["a.png", "b.png"]
    out = tmp_path / "out"
    assert edit("fill", tmp_path, "--output", out, "--seed", 5, "--prompt", "a red circle") == 0
    names = [str(out / f"{name}_fill.png") for name in "ab"]
    assert capsys.readouterr().out.split() == names
    values = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]
    mask = torch.from_numpy(np.asarray(mask_for(image), dtype=np.float32) / 255)[None]
    for index, name in enumerate("ab"):
        request = FillRequest(
            task=Task.FILL,
            image=values,
            mask=mask,
            prompt="a red circle",
            seed=5 + index,
            config=FillConfig(steps=2),
        )
        truth = run_fill(request, bundled_models(), RecordingHost()).image[0]
        pixels = np.asarray(Image.open(out / f"{name}_fill.png").convert("RGB"))
        assert np.array_equal(pixels, (truth * 255).round().to(torch.uint8).numpy())


def test_what_is_there_is_not_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    draw().save(tmp_path / "a.png")
    mask_for(draw()).save(tmp_path / "a_mask.png")
    target = tmp_path / "edited" / "a_remove.png"
    target.parent.mkdir()
    target.write_bytes(b"mine")
    assert edit("remove", tmp_path) == 1, "nothing was made"
    message = capsys.readouterr().err
    assert f"skipped a.png: {target} is there already" in message
    assert "images: 1 there already; --overwrite makes again" in message
    assert target.read_bytes() == b"mine"
    assert edit("remove", tmp_path, "--overwrite") == 0
    assert Image.open(target).size == (64, 48)
    assert edit("fill", tmp_path, "--prompt", "a red circle") == 0, "another task, another file"
    names = sorted(path.name for path in target.parent.iterdir())
    assert names == ["a_fill.png", "a_remove.png"]


def test_files_that_are_no_images_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("a.nef", "b.gif", "notes.txt", "notes.md", "c.txt"):
        (tmp_path / name).write_text("a red circle")
    assert edit("fill", tmp_path) == 1
    assert "holds no image" in capsys.readouterr().err
    draw().save(tmp_path / "c.png")
    mask_for(draw()).save(tmp_path / "c_mask.png")
    assert edit("fill", tmp_path) == 1, "two images are missing among the results"
    message = capsys.readouterr().err
    assert "skipped 2 files that are no images" in message
    assert ": notes.md, notes.txt\n" in message, "c.txt is the prompt of c.png"
    assert "onereward: a.nef: develop it into a JPEG or TIFF file\n" in message
    assert "onereward: b.gif: save it as PNG" in message
    assert message.endswith("onereward: images: 1 made, 2 failed\n")


def test_extend_and_text_and_candidates(tmp_path: Path):
    draw().save(tmp_path / "a.jpg", exif=exif())
    assert edit("extend", tmp_path / "a.jpg", "--right", 16, "--format", "png") == 0
    with Image.open(tmp_path / "edited" / "a_extend.png") as image:
        assert image.size == (80, 48)
        assert image.getexif().get_ifd(EXIF_IFD)[WIDTH_TAG] == 80
    mask_for(draw()).save(tmp_path / "m.png")
    words = ("--text", "AB", "--mask", tmp_path / "m.png", "--set", "num_candidates=2")
    assert edit("text", tmp_path / "a.jpg", *words) == 0
    assert (tmp_path / "edited" / "a_text-0.jpg").is_file()
    assert (tmp_path / "edited" / "a_text-1.jpg").is_file()


def test_transparency_that_is_no_mask_is_kept(tmp_path: Path):
    image = draw()
    alpha = Image.linear_gradient("L").resize(image.size)
    image.putalpha(alpha)
    image.save(tmp_path / "a.png")
    mask_for(image).save(tmp_path / "a_mask.png")
    photo = read_photo(tmp_path / "a.png")
    save_photo(photo, photo.pixels, tmp_path / "b.png")
    saved = Image.open(tmp_path / "b.png")
    assert np.array_equal(np.asarray(saved.getchannel("A")), np.asarray(alpha))


def test_transparency_without_an_erased_pixel_is_no_mask(tmp_path: Path):
    image = draw().convert("RGBA")
    image.save(tmp_path / "opaque.png")
    assert read_photo(tmp_path / "opaque.png").mask is None
    image.putpixel((3, 5), (0, 0, 0, 254))
    image.save(tmp_path / "erased.png")
    mask = read_photo(tmp_path / "erased.png").mask
    assert mask is not None
    assert mask.nonzero().tolist() == [[5, 3]]


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "I;16", "1", "LA"])
def test_every_mode_is_read_in_rgb(mode: str, tmp_path: Path):
    grey = Image.linear_gradient("L").resize((32, 32))
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    if mode == "I;16":
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(path)
    else:
        grey.convert(mode).save(path)
    photo = read_photo(path)
    assert photo.pixels.shape == (32, 32, 3)
    if mode not in ("1", "P"):
        truth = torch.from_numpy(np.asarray(grey, dtype=np.float32) / 255)
        assert (photo.pixels.mean(-1) - truth).abs().max() < 0.02


def test_one_bad_image_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    draw().save(tmp_path / "a.png")
    mask_for(draw()).save(tmp_path / "a_mask.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    draw().save(tmp_path / "c.png")
    draw(32, 32).save(tmp_path / "d.png")
    mask_for(draw()).save(tmp_path / "d_mask.png")
    assert edit("remove", tmp_path) == 1
    message = capsys.readouterr().err
    assert re.search(r"b\.png: \S*b\.png cannot be read as an image \(it is no image\)", message)
    assert "c.png: it has no mask; save one as c_mask.png" in message
    assert "d_mask.png is 64x48 pixels but d.png is 32x32 pixels" in message
    assert "images: 1 made, 3 failed" in message
    assert (tmp_path / "edited" / "a_remove.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/none.png"], "is neither an image nor a folder"),
        (["{}", "--mask", "{}/a.png"], "--mask is for a single image"),
        (["{}", "--set", "stepps=3"], "NAME=VALUE is expected"),
        (["{}", "--set", "stepps=3"], "such as steps"),
        (["{}", "--set", "steps=x"], "a whole number is expected"),
        (["{}", "--set", f"steps={'9' * 5000}"], "a whole number is expected"),
        (["{}", "--seed", "-2"], "--seed is -2"),
        (["{}", "--seed", str(2**64)], "2**64 - 1"),
        (["{}", "--set", "true_cfg=-0.5"], "true_cfg is -0.5"),
        (["{}", "--set", "offload=maybe"], "offload is 'maybe'"),
        (["{}", "--output", "{}"], "is the folder of the sources"),
        (["{}", "--format", "gif"], "--format is gif"),
        (["{}", "--adapter", "x.safetensors", "1", "2"], "at most one number"),
        (["{}", "--adapter", "{}/x.safetensors"], "x.safetensors is missing"),
        (["{}", "--model", "{}"], "model_index.json is missing"),
    ],
)
def test_bad_arguments_get_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    draw().save(tmp_path / "a.png")
    assert edit("remove", *(text.replace("{}", str(tmp_path)) for text in arguments)) == 1
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert last_line.startswith("onereward: ")
    assert message in last_line
    assert len(last_line) < 320


def test_two_images_never_become_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("a.png", "a.webp"):
        draw().save(tmp_path / name)
    assert edit("remove", tmp_path, "--format", "png") == 1
    assert (
        "a.png and a.webp would both become a_remove.png; leave --format" in capsys.readouterr().err
    )
    assert not (tmp_path / "edited").exists()


def test_a_missing_package_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    draw().save(tmp_path / "a.png")
    (tmp_path / "fill.gguf").write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert edit("remove", tmp_path, "--transformer", tmp_path / "fill.gguf") == 1
    assert "needs the package gguf; install it with" in capsys.readouterr().err


def test_help_is_there(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        cli.main(["edit", "--help"])
    assert ended.value.code == 0
    assert json.dumps("steps=28")[1:-1] in capsys.readouterr().out
