"""``onereward edit`` on files as people have them: what they say, frames, formats, encodings."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from onereward import cli
from onereward.fill.io.photo import list_photos, read_photo, save_photo

FAST = ("--set", "steps=1", "--set", "precision=fp32")
ORIENTATION, XMP_TAG, SUBFILE_TYPE = 0x0112, 700, 254
ROTATED = 6
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description dc:creator="Zoë"{}/></rdf:RDF></x:xmpmeta>'
)
IPTC_CAPTION = b"\x1c\x02\x78\x00\x05caf\xc3\xa9"


def draw(width: int = 64, height: int = 48) -> Image.Image:
    generator = np.random.default_rng(0)
    small = generator.integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def save_mask(path: Path) -> None:
    mask = Image.new("L", draw().size)
    mask.paste(255, (20, 12, 40, 30))
    mask.save(path)


def edit(*arguments: object, device: str = "cpu") -> int:
    return cli.main(["edit", *map(str, arguments), *FAST, "--device", device])


def copied(source: Path, target: Path) -> Path:
    photo = read_photo(source)
    save_photo(photo, photo.pixels, target)
    return target


def png_chunks(path: Path) -> list[tuple[bytes, bytes]]:
    """Return a PNG's chunks, read without Pillow."""
    data, at, chunks = path.read_bytes(), 8, []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack(">I", data[at + 8 + length :][:4])[0]
        chunks.append((kind, body))
        at += 12 + length
    return chunks


def test_texts_of_a_png_are_kept(tmp_path: Path):
    info = PngInfo()
    info.add_text("parameters", "a red cup, Steps: 20")
    info.add_text("long", "x" * 5000, zip=True)
    info.add_itxt("Title", "猫", "zh", "标题")
    info.add_itxt("XML:com.adobe.xmp", XMP.format(""))
    draw().save(tmp_path / "a.png", pnginfo=info)
    chunks = png_chunks(copied(tmp_path / "a.png", tmp_path / "b.png"))
    assert (b"tEXt", b"parameters\0a red cup, Steps: 20") in chunks
    assert (b"tEXt", b"long\0" + b"x" * 5000) in chunks
    assert (b"iTXt", b"Title\0\0\0zh\0" + "标题\0猫".encode()) in chunks
    packets = [body for _, body in chunks if body.startswith(b"XML:com.adobe.xmp")]
    assert len(packets) == 1
    assert packets[0].endswith(XMP.format("").encode())


@pytest.mark.parametrize("end", [".jpg", ".webp", ".png", ".tif", ".avif"])
def test_xmp_is_kept_and_says_upright(end: str, tmp_path: Path):
    source = tmp_path / f"a{end}"
    exif = Image.Exif()
    exif[ORIENTATION] = ROTATED
    xmp = XMP.format(f' tiff:Orientation="{ROTATED}"').encode()
    if end == ".png":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        draw().save(source, pnginfo=info, exif=exif)
    elif end == ".tif":
        exif[XMP_TAG] = xmp
        draw().save(source, exif=exif)
    else:
        draw().save(source, xmp=xmp, exif=exif.tobytes())
    with Image.open(copied(source, tmp_path / f"b{end}")) as image:
        image.load()
        assert image.size == (48, 64)
        assert image.getexif().get(ORIENTATION, 1) == 1
        packet = image.info.get("xmp") or image.getexif().get(XMP_TAG)
    assert "Zoë".encode() in packet
    assert b'Orientation="6"' not in packet


def test_comment_and_caption_of_a_jpeg_are_kept(tmp_path: Path):
    resource = struct.pack(">4sHHI", b"8BIM", 0x0404, 0, len(IPTC_CAPTION)) + IPTC_CAPTION
    thumbnail = struct.pack(">4sHHI", b"8BIM", 0x040C, 0, 4) + b"old!"
    body = b"Photoshop 3.0\0" + thumbnail + resource
    segment = b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
    draw().save(tmp_path / "a.jpg", quality=95, comment="mine, ünder".encode(), extra=segment)
    target = copied(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with Image.open(target) as image:
        assert image.info["comment"] == "mine, ünder".encode()
        assert image.info["photoshop"] == {0x0404: IPTC_CAPTION}, "no picture of the old image"
    chunks = png_chunks(copied(tmp_path / "a.jpg", tmp_path / "b.png"))
    assert any(body.startswith(b"Comment\0") and b"mine" in body for _, body in chunks)


@pytest.mark.parametrize("end", [".webp", ".png", ".tif", ".avif"])
def test_an_animation_or_several_pages_are_refused(
    end: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    more = [draw().rotate(angle) for angle in (5, 9)]
    draw().save(tmp_path / f"a{end}", save_all=True, append_images=more)
    draw().save(tmp_path / "b.png")
    for name in ("a", "b"):
        save_mask(tmp_path / f"{name}_mask.png")
    assert edit("remove", tmp_path) == 1
    assert "(it holds 3 frames or pages; save each as a file of its own)" in capsys.readouterr().err
    assert [path.name for path in list_photos(tmp_path / "edited")] == ["b_remove.png"]


def test_parts_of_one_photo_are_no_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    small = draw().resize((16, 12))
    draw().save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[small])
    assert read_photo(tmp_path / "a.jpg").pixels.shape == (48, 64, 3)
    assert "a.jpg: parts beside the image" in caplog.text
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[SUBFILE_TYPE] = 1
    pages = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(pages, True) as writer:
        draw().save(writer, format="TIFF")
        writer.newFrame()
        small.save(writer, format="TIFF", tiffinfo=tags)
        writer.newFrame()
    (tmp_path / "b.tif").write_bytes(pages.getvalue())
    with Image.open(tmp_path / "b.tif") as image:
        assert getattr(image, "n_frames", 1) == 2
    truth = torch.from_numpy(np.asarray(draw(), dtype=np.float32) / 255)
    assert torch.equal(read_photo(tmp_path / "b.tif").pixels, truth)


@pytest.mark.parametrize("end", [".avif", ".heic", ".jfif", ".tiff"])
def test_photos_of_telephones_and_scanners_are_edited(end: str, tmp_path: Path):
    if end == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    draw().save(tmp_path / f"a{end}", quality=95)
    save_mask(tmp_path / "a_mask.png")
    assert edit("remove", tmp_path) == 0
    result = read_photo(tmp_path / "edited" / f"a_remove{end}").pixels
    truth = torch.from_numpy(np.asarray(draw(), dtype=np.float32) / 255)
    assert (result - truth)[:8].abs().mean() < 0.02, "above the mask"


@pytest.mark.parametrize("name", ["a.gif", "a.tga", "a"])
def test_what_cannot_be_written_without_loss_becomes_png(name: str, tmp_path: Path):
    draw().quantize().convert("RGB").save(
        tmp_path / name, format={".gif": "GIF", ".tga": "TGA"}.get(Path(name).suffix, "PNG")
    )
    save_mask(tmp_path / "mask.png")
    assert edit("remove", tmp_path / name, "--mask", tmp_path / "mask.png") == 0
    with Image.open(tmp_path / "edited" / "a_remove.png") as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_captions_may_have_a_byte_order_mark(encoding: str, tmp_path: Path):
    draw().save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_bytes("a café\r\n".encode(encoding))
    assert read_photo(tmp_path / "a.png").text == "a café"


def test_a_caption_in_another_encoding_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    draw().save(tmp_path / "a.png")
    save_mask(tmp_path / "a_mask.png")
    (tmp_path / "a.txt").write_bytes("a café".encode("cp1252"))
    assert edit("fill", tmp_path) == 1
    assert "a.txt is not text in UTF-8 (byte 5); save it as UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "mps", "meta", "banana"])
def test_a_device_that_cannot_compute_is_one_sentence(
    device: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has it")
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has it")
    draw().save(tmp_path / "a.png")
    assert edit("remove", tmp_path, device=device) == 1
    last_line = capsys.readouterr().err.strip().splitlines()[-1]
    assert last_line.startswith(f"onereward: --device is {device}, but PyTorch cannot compute")
    assert "cpu" in last_line


def test_any_seed_is_named_and_repeats(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    draw().save(tmp_path / "a.png")
    save_mask(tmp_path / "a_mask.png")
    result = tmp_path / "edited" / "a_remove.png"
    assert edit("remove", tmp_path, "--seed", -1) == 0
    first, message = result.read_bytes(), capsys.readouterr().err
    seed = next(line for line in message.splitlines() if "--seed" in line).split()[2]
    assert edit("remove", tmp_path, "--seed", seed, "--overwrite") == 0
    assert result.read_bytes() == first


def test_nothing_painted_is_left_unchanged_if_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("a", "b", "c"):
        draw().save(tmp_path / f"{name}.png")
    save_mask(tmp_path / "a_mask.png")
    Image.new("L", draw().size).save(tmp_path / "b_mask.png")
    assert edit("remove", tmp_path) == 1
    assert "images: 1 made, 2 failed" in capsys.readouterr().err
    assert edit("remove", tmp_path, "--set", "skip_empty_masks=true") == 0
    message = capsys.readouterr().err
    assert "onereward: b.png has nothing painted and is unchanged" in message
    assert "onereward: c.png has nothing painted and is unchanged" in message
    assert "images: 2 unchanged, 1 there already" in message
    for name in ("b", "c"):
        pixels = np.asarray(Image.open(tmp_path / "edited" / f"{name}_remove.png"))
        assert np.array_equal(pixels, np.asarray(draw()))


def test_options_without_effect_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    draw().save(tmp_path / "a.png")
    save_mask(tmp_path / "m.png")
    ignored = ("--prompt", "a cup", "--left", 8, "--tokenizer", tmp_path)
    assert edit("remove", tmp_path / "a.png", "--mask", tmp_path / "m.png", *ignored) == 0
    message = capsys.readouterr().err
    assert "--prompt has no effect on remove" in message
    assert "--left has no effect on remove" in message
    assert "--tokenizer has no effect without --text_encoder" in message
    aspect = ("--aspect", "3:1", "--right", 8, "--mask", tmp_path / "m.png")
    assert edit("extend", tmp_path / "a.png", *aspect) == 0
    message = capsys.readouterr().err
    assert "--right has no effect on extend beside --aspect" in message
    assert "--mask has no effect on extend\n" in message


def test_an_empty_path_is_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        edit("remove", "")
    assert ended.value.code == 2
    assert "source: it is empty; name a file or folder" in capsys.readouterr().err


def test_reading_heic_needs_a_package_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    for name in ("photo", "image_file"):
        module = sys.modules[f"onereward.fill.io.{name}"]
        monkeypatch.setattr(module, "ENDS", tuple(e for e in module.ENDS if e != ".heic"))
    (tmp_path / "a.heic").write_bytes(b"of a telephone")
    assert edit("remove", tmp_path) == 1
    message = capsys.readouterr().err
    assert "onereward: a.heic: reading it needs a package: pip install pillow-heif\n" in message
    assert "holds no image" in message
