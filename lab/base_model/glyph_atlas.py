"""Render the capital letters of openly licensed fonts into `lab/world/data/glyphs.safetensors`.

Run once, by hand, when the list of fonts changes: the world itself needs no font at run time.
`python -m onereward.lab.base_model.glyph_atlas FONT_FOLDER OUTPUT` looks for the files named
in `FONTS` anywhere under FONT_FOLDER (Debian's fonts-* packages, unpacked).
"""

import argparse
import logging
import os
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
CELL_HEIGHT, CELL_WIDTH = 24, 16
CAP_HEIGHT, MAX_WIDTH = 17, 14
OVERSAMPLE = 8

FONTS = {
    "DejaVuSans-Bold.ttf": "DejaVu Sans Bold (Bitstream Vera licence)",
    "OpenSans-Bold.ttf": "Open Sans Bold (Apache-2.0)",
    "Roboto-Bold.ttf": "Roboto Bold (Apache-2.0)",
    "Hack-Bold.ttf": "Hack Bold (MIT and Bitstream Vera licence)",
    "Cantarell-Bold.otf": "Cantarell Bold (OFL-1.1)",
    "LiberationSans-Bold.ttf": "Liberation Sans Bold (OFL-1.1)",
    "Lato-Bold.ttf": "Lato Bold (OFL-1.1)",
}

log = logging.getLogger("onereward.training")


def find_font(folder: Path, name: str) -> Path:
    """Return the only file called `name` below `folder`."""
    paths = sorted(folder.rglob(name))
    if not paths:
        raise FileNotFoundError(f"{name} is not below {folder}; unpack its fonts-* package there")
    return paths[0]


def render_letter(font: ImageFont.FreeTypeFont, letter: str) -> torch.Tensor:
    """Draw one letter into its cell, uint8 `[24, 16]`: capitals 17 pixels high, at most 14 wide."""
    left, top, right, bottom = font.getbbox(letter)
    big = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(big).text((-left, -top), letter, font=font, fill=255)
    width = min(MAX_WIDTH, max(1, round(big.width / OVERSAMPLE)))
    height = min(CELL_HEIGHT - 2, max(1, round(big.height / OVERSAMPLE)))
    small = big.resize((width, height), Image.Resampling.BOX)
    cell = Image.new("L", (CELL_WIDTH, CELL_HEIGHT))
    # Round letters overshoot and Q has a tail: the cap's top line is what all letters share.
    cell.paste(small, ((CELL_WIDTH - width) // 2, 3))
    return torch.frombuffer(bytearray(cell.tobytes()), dtype=torch.uint8).view(
        CELL_HEIGHT, CELL_WIDTH
    )


def render_font(path: Path) -> torch.Tensor:
    """Render A to Z: uint8 `[26, 24, 16]`."""
    probe = ImageFont.truetype(str(path), 1000)
    _, top, _, bottom = probe.getbbox("H")
    size = round(1000 * CAP_HEIGHT * OVERSAMPLE / (bottom - top))
    font = ImageFont.truetype(str(path), size)
    return torch.stack([render_letter(font, letter) for letter in LETTERS])


def main() -> None:
    """Write the atlas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    atlas = torch.stack([render_font(find_font(arguments.folder, name)) for name in FONTS])
    temporary = arguments.output.with_suffix(".tmp")
    save_file({"glyphs": atlas}, temporary, metadata={"fonts": "; ".join(FONTS.values())})
    os.replace(temporary, arguments.output)
    log.info("wrote %s: %d fonts", arguments.output, len(FONTS))


if __name__ == "__main__":
    main()
