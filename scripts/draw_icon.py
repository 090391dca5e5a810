"""Draw the pack's icon and banner: a star, the reward, inside the outline of a mask.

Writes ``assets/icon/icon.png`` (400 x 400) and ``assets/icon/banner.png`` (1260 x 540, 21:9), the
sizes that ComfyUI's registry asks for.
"""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "assets" / "icon"
ICON, BANNER = (400, 400), (1260, 540)
SMOOTH = 4
"""Everything is drawn this many times larger and shrunk, for smooth edges."""
TOP, BOTTOM = (34, 32, 84), (112, 52, 158)
MASK, OUTLINE, STAR = (140, 92, 196), (255, 244, 238), (255, 194, 66)
NUM_DASHES = 10


def main() -> None:
    """Write both pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    draw_icon().save(FOLDER / "icon.png", optimize=True)
    draw_banner().save(FOLDER / "banner.png", optimize=True)


def draw_icon() -> Image.Image:
    """Return the icon: round corners, transparent outside."""
    picture = _gradient(ICON)
    _draw_sign(ImageDraw.Draw(picture), 200, 200, 150)
    corners = Image.new("L", picture.size)
    area = (0, 0, picture.width - 1, picture.height - 1)
    ImageDraw.Draw(corners).rounded_rectangle(area, radius=88 * SMOOTH, fill=255)
    picture.putalpha(corners)
    return picture.resize(ICON, Image.Resampling.LANCZOS)


def draw_banner() -> Image.Image:
    """Return the banner: the sign, the name and the four edits."""
    picture = _gradient(BANNER)
    draw = ImageDraw.Draw(picture)
    _draw_sign(draw, 270, 270, 165)
    for text, y, size, colour in (
        ("OneReward", 215, 118, OUTLINE),
        ("fill · extend · remove · text", 335, 46, STAR),
    ):
        font = ImageFont.load_default(size * SMOOTH)
        draw.text((500 * SMOOTH, y * SMOOTH), text, colour, font, anchor="lm")
    return picture.resize(BANNER, Image.Resampling.LANCZOS)


def _draw_sign(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    """Draw mask, outline and star about a point; lengths in pixels of the finished picture."""
    x, y, radius = x * SMOOTH, y * SMOOTH, radius * SMOOTH
    draw.circle((x, y), radius * 0.9, fill=MASK)
    box = (x - radius, y - radius, x + radius, y + radius)
    turn = 360 / NUM_DASHES
    for number in range(NUM_DASHES):
        start = -90 + (number - 0.3) * turn
        draw.arc(box, start, start + 0.6 * turn, fill=OUTLINE, width=round(radius * 0.13))
    # Half a step lower: the middle of a star with five points is below that of its circle.
    corners = _star(radius * 0.68, radius * 0.3)
    draw.polygon([(x + dx, y + radius * 0.03 + dy) for dx, dy in corners], fill=STAR)


def _star(outer: float, inner: float) -> list[tuple[float, float]]:
    """Return the corners of a star with five points, the first upwards."""
    corners = []
    for number in range(10):
        angle = -math.pi / 2 + number * math.pi / 5
        length = inner if number % 2 else outer
        corners.append((length * math.cos(angle), length * math.sin(angle)))
    return corners


def _gradient(size: tuple[int, int]) -> Image.Image:
    big = (size[0] * SMOOTH, size[1] * SMOOTH)
    shade = Image.linear_gradient("L").resize(big)
    return Image.composite(Image.new("RGB", big, BOTTOM), Image.new("RGB", big, TOP), shade)


if __name__ == "__main__":
    main()
