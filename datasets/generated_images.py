"""Images made by rules, with the edges, textures and lettering that photographs lack in a small collection."""

import math
import string

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

_OVERSAMPLING = 2  # drawn larger and averaged down, so that edges are as soft as a lens and sensor make them


def generated_image(rng: np.random.Generator, size: int = 512) -> NDArray[np.uint8]:
    """Return a (size, size, 3) image: leaves on leaves, and on every other image lines and lettering.

    Leaves have radii of density r**-3, as the objects of natural images seem to have (Lee, Mumford and Huang 2001, IJCV 41:35);
    here the small lie on the large, so that more edges are seen. Each has a colour of the image's palette and a texture whose
    spectrum falls as a power of the frequency, as those of photographs do (Field 1987, JOSA A 4:2379).
    """
    side = size * _OVERSAMPLING
    palette = rng.uniform(0, 255, (6, 3))
    palette += rng.uniform(0.0, 0.8) * (palette.mean(1, keepdims=True) - palette)  # nature is greyer than the colour cube
    canvas_HWC = np.empty((side, side, 3), np.float32)
    textures = [_texture(rng, side) for _ in range(3)]
    smallest, largest = 4.0 * _OVERSAMPLING, side / 3
    for radius in sorted(_radii(rng, smallest, largest, count=int(rng.integers(300, 1500))), reverse=True):
        _lay_leaf(rng, canvas_HWC, radius, palette, textures)
    picture = Image.fromarray(np.clip(canvas_HWC, 0, 255).astype(np.uint8))
    if rng.random() < 0.5:
        _draw_lines(rng, picture)
        _write(rng, picture)
    blocks = np.asarray(picture, np.float32).reshape(size, _OVERSAMPLING, size, _OVERSAMPLING, 3)
    image: NDArray[np.uint8] = (blocks.mean((1, 3)) + 0.5).astype(np.uint8)
    return image


def _radii(rng: np.random.Generator, smallest: float, largest: float, count: int) -> list[float]:
    """Draw from the density r**-3 between two radii by inverting its distribution; the first covers the whole ground."""
    u = rng.random(count)
    radii = 1 / np.sqrt(smallest**-2 - u * (smallest**-2 - largest**-2))
    return [math.inf, *(float(r) for r in radii)]


def _lay_leaf(
    rng: np.random.Generator,
    canvas_HWC: NDArray[np.float32],
    radius: float,
    palette: NDArray[np.float64],
    textures: list[NDArray[np.float32]],
) -> None:
    side = len(canvas_HWC)
    x, y = rng.uniform(0, side, 2)
    left, top = (max(int(c - radius), 0) if math.isfinite(radius) else 0 for c in (x, y))
    right, bottom = (min(int(c + radius) + 1, side) if math.isfinite(radius) else side for c in (x, y))
    shape = Image.new("1", (right - left, bottom - top), 0 if math.isfinite(radius) else 1)
    if math.isfinite(radius):
        _draw_shape(rng, ImageDraw.Draw(shape), x - left, y - top, radius)
    inside_HW = np.asarray(shape)
    height, width = inside_HW.shape
    colour = palette[rng.integers(len(palette))] + rng.normal(0, 15, 3)
    texture = textures[rng.integers(len(textures))]
    row, column = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
    contrast = rng.exponential(18.0) * rng.uniform(0.7, 1.3, 3)
    slope = rng.normal(0, 30 / side, 2)
    shade_HW = slope[0] * np.arange(height)[:, None] + slope[1] * np.arange(width)
    leaf_HWC = colour + texture[row : row + height, column : column + width, None] * contrast + shade_HW[..., None]
    canvas_HWC[top:bottom, left:right][inside_HW] = leaf_HWC[inside_HW]


def _draw_shape(rng: np.random.Generator, draw: ImageDraw.ImageDraw, x: float, y: float, radius: float) -> None:
    kind = rng.integers(3)
    if kind == 0:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
        return
    corners = int(rng.integers(3, 8)) if kind == 1 else 4
    angles = (
        np.sort(rng.uniform(0, 2 * math.pi, corners)) if kind == 1 else rng.uniform(0, math.pi) + np.array([-1, 1, 5, 7]) * 0.3
    )
    draw.polygon([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles], fill=1)


def _texture(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """Noise of mean 0 and deviation 1 with amplitudes that fall as frequency ** -0.5..-1.8, streaky in some direction or not."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    angle, stretch = rng.uniform(0, math.pi), float(np.exp(rng.normal(0, 0.8)))
    u, v = fx * math.cos(angle) + fy * math.sin(angle), fy * math.cos(angle) - fx * math.sin(angle)
    frequency = np.hypot(u * stretch, v / stretch)
    frequency[0, 0] = np.inf
    spectrum = (rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)) * frequency ** -rng.uniform(0.5, 1.8)
    noise = np.fft.irfft2(spectrum, (side, side))
    texture: NDArray[np.float32] = (noise / noise.std()).astype(np.float32)
    return texture


def _draw_lines(rng: np.random.Generator, picture: Image.Image) -> None:
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(5, 40))):
        x, y = rng.uniform(0, picture.width, 2)
        angle, length = rng.uniform(0, 2 * math.pi), rng.uniform(20, picture.width)
        bend = rng.normal(0, 1.0)
        steps = np.linspace(0, 1, 24)
        xs = x + length * np.cumsum(np.cos(angle + bend * steps)) / len(steps)
        ys = y + length * np.cumsum(np.sin(angle + bend * steps)) / len(steps)
        draw.line(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=_colour(rng), width=int(rng.integers(2, 12)))


def _write(rng: np.random.Generator, picture: Image.Image) -> None:
    draw = ImageDraw.Draw(picture)
    letters = list(string.ascii_letters + string.digits + "    .,:-")
    for _ in range(int(rng.integers(2, 16))):
        font = ImageFont.load_default(size=float(rng.uniform(14, 90)))
        x, y = rng.uniform(0, picture.width, 2)
        draw.text((x - 200, y), "".join(rng.choice(letters, int(rng.integers(5, 40)))), fill=_colour(rng), font=font)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    dark_or_light = rng.choice([0, 255]) if rng.random() < 0.5 else rng.uniform(0, 255)
    r, g, b = np.clip(dark_or_light + rng.normal(0, 40, 3), 0, 255).astype(int).tolist()
    return r, g, b
