"""Made-up ground: land cover, what it is made of, and how that differs from landscape to landscape."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .classes import ClassInfo
from .materials import MATERIALS, SNOW, bump
from .random_fields import blur, field, rough_field

_Array = NDArray[np.float64]

GROUND = (*MATERIALS, SNOW)
COVERS = (
    ClassInfo(1, "water", (31, 111, 180)),
    ClassInfo(2, "trees", (21, 92, 44)),
    ClassInfo(3, "grass", (141, 199, 84)),
    ClassInfo(4, "crops", (226, 201, 110)),
    ClassInfo(5, "built-up", (190, 74, 52)),
    ClassInfo(6, "bare", (166, 118, 72)),
    ClassInfo(7, "snow", (240, 244, 250)),
)
_WATER, _TREES, _GRASS, _CROPS, _BUILT, _BARE, _SNOWY = range(1, 8)
_INDEX = {material.name: index for index, material in enumerate(GROUND)}
_TEXTURE = {"trees": 0.16, "tile roof": 0.12, "concrete": 0.15, "water": 0.03}  # of brightness from pixel to pixel; others 0.07
_TONES = {"bare soil": 0.35, "water": 0.3, "snow": 0.05}  # of the logarithm of brightness between landscapes; others 0.15


@dataclass(frozen=True, eq=False)
class Ground:
    """The ground of a place.

    Args:
        cover: uint8 (height, width), of ``COVERS``.
        shares: of each of ``GROUND`` in each pixel, (materials, height, width), of sum 1.
        state: of the materials in 0..1: moisture, density, age or wear; (height, width).
        brightness: by which the ground is brighter than its materials; (height, width), about 1.
        tones: how spectra of the materials differ here: see ``spectrum``.
    """

    cover: NDArray[np.uint8]
    shares: _Array
    state: _Array
    brightness: _Array
    tones: _Array

    def spectrum(self, material: int, wavelengths: _Array, state: float) -> _Array:
        """Return reflectance of one of ``GROUND`` as it is in this landscape, (bands,)."""
        level, tilt, *rest = self.tones[material]
        change = level + tilt * (wavelengths - 900) / 800
        for height, centre, width in np.reshape(rest, (-1, 3)):
            change = change + height * bump(wavelengths, centre, width)
        spectrum: _Array = GROUND[material].spectrum(wavelengths, state) * np.exp(change)
        return spectrum


def make_ground(rng: np.random.Generator, height: _Array) -> Ground:
    """Make ground on a relief, in pixels of 10 m."""
    shape = (height.shape[0], height.shape[1])
    parcels, straight = _parcels(rng, shape, rng.uniform(12, 40), rng.uniform(5, 16))
    cover = _covers(rng, height)
    material, state = _materials(rng, cover, parcels, straight)
    shares = blur((material[None] == np.arange(len(GROUND))[:, None, None]).astype(np.float64), rng.uniform(0.4, 1.0))
    _thin_out(rng, shares)
    if rng.random() < 0.15:
        _snow_on(rng, shares, cover, height)
    texture = np.array([_TEXTURE.get(each.name, 0.07) for each in GROUND])
    grain = 0.6 * rng.standard_normal(shape) + 0.8 * rough_field(rng, shape, 1.0)
    own = np.exp(0.12 * rng.standard_normal(parcels.max() + 1))[parcels]
    brightness = np.where(cover == _CROPS, own, 1.0) * np.exp(np.einsum("m,mhw->hw", texture, shares) * grain)
    return Ground(cover, shares, state, brightness, _tones(rng))


def _tones(rng: np.random.Generator) -> _Array:
    """Draw for each material a level, a tilt, and height, centre and width of three bumps, (materials, 11)."""
    count = len(GROUND)
    size = np.array([_TONES.get(each.name, 0.15) for each in GROUND])[:, None]
    parts = [rng.normal(0, 1, (count, 1)) * size, rng.normal(0, 0.5, (count, 1)) * size]
    for _ in range(3):
        parts += [rng.normal(0, 0.7, (count, 1)) * size, rng.uniform(400, 2500, (count, 1)), rng.uniform(60, 400, (count, 1))]
    return np.concatenate(parts, axis=1)


def _covers(rng: np.random.Generator, height: _Array) -> NDArray[np.uint8]:
    shape = (height.shape[0], height.shape[1])
    wish = rng.normal(0, 1.0, 6)  # what there is more of in this landscape
    scale, slope = np.exp(rng.uniform(np.log(4), np.log(25))), rng.uniform(1.3, 2.2)
    draw = np.stack([0.7 * field(rng, shape, scale) + 0.7 * rough_field(rng, shape, slope) for _ in range(6)])
    draw += wish[:, None, None]
    ground = (height - height.mean()) / height.std()
    draw[_WATER - 1] += -1.2 * ground - 0.8
    draw[_TREES - 1] += 0.5 * ground
    draw[_CROPS - 1] -= 0.3 * ground
    draw[_BUILT - 1] -= 0.5
    covers: NDArray[np.uint8] = (draw.argmax(0) + 1).astype(np.uint8)
    return covers


def _materials(
    rng: np.random.Generator, cover: NDArray[np.uint8], parcels: NDArray[np.intp], straight: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], _Array]:
    """Return the material that covers most of each pixel, and its state; roads and rivers change the cover, too."""
    shape = (cover.shape[0], cover.shape[1])
    variety = 0.5 + 0.2 * rough_field(rng, shape, 1.5) + 0.1 * rng.standard_normal(shape)
    own = rng.random(parcels.max() + 1)[parcels]
    material = np.choose(cover - 1, [_INDEX[n] for n in ("water", "trees", "meadow", "meadow", "asphalt", "bare soil")])
    material = np.where((cover == _GRASS) & (field(rng, shape, 3) > rng.uniform(-1, 2)), _INDEX["dry grass"], material)
    season = rng.dirichlet([1.5, 1.0, 1.0])  # what grows, is ripe, or was ploughed
    grown = rng.choice([_INDEX[n] for n in ("meadow", "dry grass", "bare soil")], parcels.max() + 1, p=season)[parcels]
    material = np.where(cover == _CROPS, grown, material)
    state = np.where(cover == _CROPS, 0.3 * (variety - 0.5) + own, variety)
    state = np.where(cover == _WATER, 0.25 * variety + rng.uniform(0, 0.7), state)
    # In villages: roofs of two kinds, streets in a grid of their own, gardens and trees between.
    kinds = [_INDEX[n] for n in ("tile roof", "concrete", "asphalt", "meadow", "trees", "bare soil")]
    houses = rng.choice(kinds, shape, p=rng.dirichlet([3, 4, 3, 3, 2, 1]))
    _, streets = _parcels(rng, shape, rng.uniform(8, 20), rng.uniform(4, 10))
    material = np.where(cover == _BUILT, np.where(streets, _INDEX["asphalt"], houses), material)
    hedges = straight & (cover == _CROPS) & (rng.random(parcels.max() + 1)[parcels] < rng.uniform(0, 0.8))
    material = np.where(hedges, rng.choice([_INDEX["trees"], _INDEX["dry grass"]]), material)
    if rng.random() < 0.6:
        _lay(rng, cover, material, _BUILT, _INDEX["asphalt"], 0, 8.0)
    if rng.random() < 0.5:
        way, width, bend = rng.integers(2**32), int(rng.integers(1, 9)), rng.uniform(3, 8)
        if rng.random() < 0.5:  # banks of sand and gravel
            banks = width + int(rng.integers(1, 5))
            _lay(np.random.default_rng(way), cover, material, _BARE, _INDEX["bare soil"], banks, bend)
        _lay(np.random.default_rng(way), cover, material, _WATER, _INDEX["water"], width, bend)
    return material, state.clip(0, 1)


def _thin_out(rng: np.random.Generator, shares: _Array) -> None:
    """Let soil and straw show between plants, and some plants grow on bare soil, in place."""
    shape = (shares.shape[1], shares.shape[2])
    dry, patchy = rng.beta(1, 2), rng.uniform(0.05, 0.3)
    gone = (dry + patchy * rough_field(rng, shape, rng.uniform(0.8, 2.0))).clip(0, 0.95)
    straw = rng.uniform(0, 0.8)
    for name, part in (("trees", 0.6), ("meadow", 1.0)):
        lost = shares[_INDEX[name]] * gone * part
        shares[_INDEX[name]] -= lost
        shares[_INDEX["dry grass"]] += straw * lost
        shares[_INDEX["bare soil"]] += (1 - straw) * lost
    grown = shares[_INDEX["bare soil"]] * (rng.uniform(-0.3, 0.3) + 0.2 * rough_field(rng, shape, 1.2)).clip(0, 0.6)
    shares[_INDEX["bare soil"]] -= grown
    shares[_INDEX[str(rng.choice(["trees", "meadow", "dry grass"]))]] += grown


def _snow_on(rng: np.random.Generator, shares: _Array, cover: NDArray[np.uint8], height: _Array) -> None:
    """Cover the ground with snow from some height on, in place; less of it lies on woods, none on water that is not frozen."""
    shape = (shares.shape[1], shares.shape[2])
    ground = (height - height.mean()) / height.std() + 0.3 * rough_field(rng, shape, 1.5)
    fallen = 1 / (1 + np.exp(-(ground - rng.uniform(-3, 1.5)) / 0.15))
    kept = np.ones(len(GROUND))
    kept[_INDEX["trees"]] = rng.uniform(0.1, 0.7)
    kept[_INDEX["water"]] = rng.random() < 0.5
    lost = shares * fallen * kept[:, None, None]
    shares -= lost
    shares[_INDEX["snow"]] += lost.sum(0)
    cover[shares[_INDEX["snow"]] > 0.5] = _SNOWY


def _parcels(
    rng: np.random.Generator, shape: tuple[int, int], long: float, short: float
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the number of each pixel's parcel, and where their edges are: strips between two sets of crooked parallels."""
    rows, columns = np.indices(shape).astype(np.float64)
    angle = rng.uniform(0, np.pi)
    bend = 3 * field(rng, shape, 25)
    along = (columns * np.cos(angle) + rows * np.sin(angle) + bend) / long
    across = (rows * np.cos(angle) - columns * np.sin(angle) + bend) / short
    across += 0.5 * (np.floor(along) % 2)  # not all corners meet
    keys = np.stack([np.floor(along), np.floor(across)], -1).reshape(-1, 2)
    _, number = np.unique(keys, axis=0, return_inverse=True)
    edges = ((along % 1) * long < 1) | ((across % 1) * short < 1)
    return number.reshape(shape), edges


def _lay(
    rng: np.random.Generator,
    cover: NDArray[np.uint8],
    material: NDArray[np.intp],
    kind: int,
    index: int,
    width: int,
    smooth: float,
) -> None:
    """Lay a road or river across the place, in place: a random walk, smoothed over some pixels."""
    rows, columns = cover.shape
    steps = np.arange(columns)
    walk = blur(rng.standard_normal((1, columns)), smooth)[0] * 1.5 * np.sqrt(8 / smooth)
    way = rng.uniform(0, rows) + np.cumsum(walk + rng.normal(0, 0.4))
    turned = rng.random() < 0.5 and rows == columns
    near = np.abs(np.arange(rows)[:, None] - way[steps]) <= width / 2 + 0.5
    if turned:
        near = near.T
    cover[near], material[near] = kind, index
