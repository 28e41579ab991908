"""Synthetic pictures of leaves and flowers: the embedded default data of `plants` (pure: numpy only).

Nobody photographed them, and the names are invented. What real data have is planted:

* Eight families are eight kinds of organ (`KINDS`); a genus fixes how many lobes, petals or veins its species have and
  roughly their colour; species of a genus differ in proportions, margin, venation and tone: that is to be told.
* A picture is a specimen: turned, nearer or farther, lit from somewhere, before some background, partly out of focus.
* A long tail: the commonest species has about a hundred times the pictures of the rarest, which have one or two.
* A country (and region), a licence and an observer for each picture; a species grows in two regions at most.
* `COPIES`: exact copies under another name, near copies (re-lit, shifted by a pixel) and copies under the name of a
  sister species, for the audit to find.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from datamodules.plants_records import frame

KINDS = ("entire leaf", "toothed leaf", "palmate leaf", "pinnate leaf", "open flower", "star", "daisy", "umbel")
FAMILIES = (
    *("Folaceae", "Dentaceae", "Digitaceae", "Pennaceae", "Calicaceae", "Stellinaceae", "Radiaceae", "Umbraceae"),
)
SPECIES_PER_GENUS = 3
IMBALANCE = 100.0
COPIES = {"exact": 0.02, "near": 0.02, "conflict": 0.005}  # shares of all pictures
COUNTRIES = {"EU_SW": ("ES", "PT", "FR", "IT"), "EU_NORTH": ("DE", "SE", "PL"), "EU_EAST": ("RO", "HU"),
             "AMERICAS_NORTH": ("US", "CA"), "AMERICAS_SOUTH": ("EC", "PE", "CL"), "ASIA": ("JP", "IN")}  # fmt: skip
LICENCES = {"CC0": 0.15, "CC-BY": 0.25, "CC-BY-SA": 0.1, "CC-BY-NC": 0.4, "CC-BY-NC-ND": 0.05, "": 0.05}
_HEADS, _TAILS = ("Vel", "Sar", "Mir", "Lun", "Tor", "Cal", "Nym", "Ast"), ("ora", "mia", "entha", "ilis", "ecia")
_EPITHETS = ("alba", "minor", "rubra", "alpina", "major", "tenuis", "aurea", "nitida", "hirta", "pumila")

Pixels = np.ndarray


@dataclass(frozen=True)
class SyntheticPlants:
    """Pictures in the order of their ids (shuffled).

    Attributes:
        pixels: (N, 3, S, S) uint8.
        records: N records with ``row`` = 0, 1, ...
    """

    pixels: Pixels
    records: pd.DataFrame


@dataclass(frozen=True)
class Species:
    """How the specimens of a species look.

    Attributes:
        name: Invented binomial.
        genus: Its first word.
        family: Invented name.
        kind: Index into ``KINDS``.
        parts: Lobes, petals, leaflets or pairs of veins.
        width: Proportion of breadth to length, or depth of the lobes.
        sharp: How pointed.
        margin: Depth of the teeth.
        vein: Slope of the side veins, or size of the centre.
        hue: Main colour, on the colour circle of 0 to 1.
        tone: Lightness.
        inner: Colour of veins or centre.
    """

    name: str
    genus: str
    family: str
    kind: int
    parts: int
    width: float
    sharp: float
    margin: float
    vein: float
    hue: float
    tone: float
    inner: float


def make_plants(samples: int = 2400, species: int = 60, size: int = 73, seed: int = 0) -> SyntheticPlants:
    """Generate the data set; the same arguments give the same bytes.

    Args:
        samples: Number of pictures, planted copies included.
        species: Number of species.
        size: Side of a picture in pixels.
        seed: Seed of everything.

    Raises:
        ValueError: For fewer than 2 species, or than 5 pictures a species.
    """
    if species < 2 or samples < 5 * species:
        raise ValueError(f"need at least 2 species and 5 pictures each, got {species} and {samples}")
    rng = np.random.default_rng([seed, 30])
    flora = [_species(number, np.random.default_rng([seed, 31, number // SPECIES_PER_GENUS]), rng)
             for number in range(species)]  # fmt: skip
    planted = {name: int(samples * share) for name, share in COPIES.items()}
    counts = long_tail(samples - sum(planted.values()), species)[rng.permutation(species)]
    y = np.repeat(np.arange(species), counts)
    pixels = np.empty((samples, 3, size, size), np.uint8)
    for i, label in enumerate(y):
        pixels[i] = _specimen(flora[label], size, rng)
    origin, label_of, kinds = _plant_copies(pixels, y, counts, planted, rng)
    order = rng.permutation(samples)
    rows = [_record(place, flora[label_of[i]], int(label_of[i]), rng) for place, i in enumerate(order)]
    records = frame(rows)
    pixels = pixels[order]
    records["hash"] = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in pixels]
    records["image_source"] = np.array(["", *COPIES])[kinds][order]
    places = _places(origin, order)
    records["copy_of"] = np.where(places >= 0, records["id"].to_numpy(str)[places], "")
    return SyntheticPlants(pixels, records.assign(row=np.arange(samples)))


def long_tail(samples: int, species: int) -> np.ndarray:
    """Counts (species,) that fall exponentially by ``IMBALANCE`` from the first to the last and sum to ``samples``."""
    share = IMBALANCE ** (-np.arange(species) / (species - 1))
    counts = np.maximum(1, np.floor(samples * share / share.sum()).astype(int))
    counts[0] += samples - counts.sum()
    return counts


def _species(number: int, genus: np.random.Generator, rng: np.random.Generator) -> Species:
    """Draw a species: what its genus fixes from the genus's own stream, the rest around it."""
    group = number // SPECIES_PER_GENUS
    kind = group % len(KINDS)
    fewest, most = ((5, 10), (5, 10), (3, 8), (4, 8), (4, 7), (5, 9), (12, 24), (7, 13))[kind]
    parts = int(genus.integers(fewest, most))
    flower = kind >= 4
    hue = float(genus.choice([0.0, 0.08, 0.14, 0.62, 0.75, 0.85, 0.95]) if flower else genus.uniform(0.22, 0.36))
    name = _HEADS[group % 8] + _TAILS[(group // 8 + group) % 5]
    name = name if group < 40 else f"{name}{group // 40}"
    near = rng.uniform(-1, 1, 7)
    return Species(
        f"{name} {_EPITHETS[(number % SPECIES_PER_GENUS) * 3 + group % 3]}",
        name,
        FAMILIES[kind],
        kind,
        parts,
        float(genus.uniform(0.45, 0.7) * (1 + 0.3 * near[0])),
        float(genus.uniform(0.7, 1.3) * (1 + 0.35 * near[1])),
        float(np.clip(genus.uniform(0.0, 0.12) + 0.06 * near[2], 0, 0.2)),
        float(genus.uniform(0.4, 0.9) * (1 + 0.35 * near[3])),
        float((hue + (0.05 if flower else 0.035) * near[4]) % 1),
        float(0.55 + 0.18 * near[5]),
        float((genus.uniform(0.08, 0.17) + 0.03 * near[6]) % 1),
    )


def _specimen(species: Species, size: int, rng: np.random.Generator) -> Pixels:
    """Draw one picture (3, size, size)."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    angle, scale = rng.uniform(-0.8, 0.8), rng.uniform(0.62, 0.95)
    x0, y0 = rng.uniform(-0.15, 0.15, 2)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    u, v = (x - x0) * cos + (y - y0) * sin, -(x - x0) * sin + (y - y0) * cos
    u = u + rng.uniform(-0.15, 0.15) * v**2  # bent
    mask, colour = _DRAW[species.kind](species, u, v, rng, 2 * scale / size)
    light = 1 + 0.25 * (x * np.cos(t := rng.uniform(0, 6.28)) + y * np.sin(t)) + rng.uniform(-0.18, 0.18)
    shadow = np.roll(mask, (max(1, size // 24), max(1, size // 30)), (0, 1))
    ground = _ground(x, y, size, rng) * (1 - 0.45 * shadow * (1 - mask))
    picture = ground + mask * (colour * light - ground)
    picture = picture + rng.normal(0, 0.02, picture.shape).astype(np.float32)
    if rng.random() < 0.3:  # out of focus
        picture = (picture + np.roll(picture, 1, 1) + np.roll(picture, 1, 2) + np.roll(picture, (1, 1), (1, 2))) / 4
    return np.asarray((np.clip(picture, 0, 1) * 255).round(), dtype=np.uint8)


def _ground(x: np.ndarray, y: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Earth, meadow, stone, sky or paper, cloudy (3, size, size)."""
    hue, saturation, value = ((0.08, 0.4, 0.35), (0.28, 0.4, 0.4), (0.1, 0.06, 0.6), (0.57, 0.35, 0.85),
                              (0.12, 0.08, 0.93))[rng.integers(5)]  # fmt: skip
    coarse = rng.normal(0, 1, (6, 6)).astype(np.float32)
    place = np.linspace(0, 4.999, size)
    low, part = place.astype(int), (place % 1).astype(np.float32)
    rows = coarse[low] * (1 - part[:, None]) + coarse[low + 1] * part[:, None]
    cloud = rows[:, low] * (1 - part) + rows[:, low + 1] * part
    tilt = x * rng.uniform(-0.12, 0.12) + y * rng.uniform(-0.12, 0.12)
    return rgb(hue + rng.uniform(-0.03, 0.03), saturation, value + 0.06 * cloud + tilt)


def rgb(hue: np.ndarray | float, saturation: np.ndarray | float, value: np.ndarray | float) -> np.ndarray:
    """Colours (3, ...) of hue, saturation and value, each in 0..1 and broadcast; of three numbers (3, 1, 1)."""
    hue = np.reshape(hue, (1, 1)) if np.ndim(hue) == 0 else hue
    hue, saturation, value = np.broadcast_arrays(hue, saturation, value)
    turn = (np.stack([hue, hue - 1 / 3, hue - 2 / 3]) * 6).astype(np.float32) % 6
    ramp = np.clip(np.abs(turn - 3) - 1, 0, 1)
    return np.clip(value * (1 - saturation * (1 - ramp)), 0, 1).astype(np.float32)


def _edge(distance: np.ndarray, width: float) -> np.ndarray:
    """1 inside (positive distance), 0 outside, soft over a pixel."""
    return np.clip(distance / max(width, 1e-3) + 0.5, 0, 1).astype(np.float32)


def _vein(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-((distance / width) ** 2)).astype(np.float32)


def _leaf(s: Species, u: np.ndarray, v: np.ndarray, rng: np.random.Generator, px: float) -> tuple[np.ndarray, ...]:
    """Draw a leaf with one midrib: entire, toothed, or cut into leaflets."""
    along = np.clip(v, -1, 1)
    half = s.width * np.clip(1 - along**2, 0, None) ** (0.6 * s.sharp) * (1 + 0.35 * s.sharp * along) * 0.75
    if s.kind == 1:
        saw = np.abs((along * s.parts * 1.5) % 1 - 0.5) * 2
        half = half * (1 - (0.12 + 1.5 * s.margin) * saw)
    if s.kind == 3:
        cut = np.abs(np.sin(np.pi * s.parts * (along - 0.3 * np.abs(u))))
        half = half * (0.15 + 0.85 * cut ** (0.5 + s.margin * 3))
    stalk = (np.abs(u) < 0.03) & (v < -0.9) & (v > -1.25)
    mask = np.maximum(_edge(half - np.abs(u), px) * (np.abs(v) < 1), stalk)
    side = np.abs(((along - np.abs(u) * s.vein) * s.parts) % 1 - 0.5)
    veins = np.maximum(_vein(u, 0.03), 0.6 * _vein(0.5 - side, 0.1) * (np.abs(u) < 0.95 * half))
    return mask, _green(s, veins, np.abs(u) / (half + 0.05), rng)


def _palm(s: Species, u: np.ndarray, v: np.ndarray, rng: np.random.Generator, px: float) -> tuple[np.ndarray, ...]:
    """Draw a leaf of several lobes around the end of its stalk."""
    radius, angle = np.hypot(u, v + 0.35), np.arctan2(u, v + 0.35)
    fan = angle * (s.parts / 2) / 0.9
    lobe = np.abs(np.cos(np.clip(fan, -np.pi * s.parts / 2, np.pi * s.parts / 2))) ** (1.1 * s.sharp)
    saw = np.abs((radius * 7) % 1 - 0.5) * s.margin * 2
    reach = 1.25 * (1 - s.width + s.width * lobe) * (0.75 + 0.25 * np.cos(angle)) - saw * lobe
    stalk = (np.abs(u) < 0.03) & (v < -0.35)
    mask = np.maximum(_edge(reach - radius, px), stalk & (v > -1.2))
    veins = _vein(np.sin(fan) * radius / s.parts * 2, 0.03) * (radius < reach)
    return mask, _green(s, veins, radius / 1.3, rng)


def _green(s: Species, veins: np.ndarray, out: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    tone = s.tone + rng.uniform(-0.06, 0.06)
    hue = s.hue + rng.uniform(-0.015, 0.015)
    blade = rgb(hue, 0.75 - 0.15 * np.clip(out, 0, 1), tone * (1 - 0.2 * np.clip(out, 0, 1)))
    return np.asarray(blade + veins * (rgb(s.inner, 0.35, min(1.0, tone + 0.3)) - blade) * 0.8)


def _flower(s: Species, u: np.ndarray, v: np.ndarray, rng: np.random.Generator, px: float) -> tuple[np.ndarray, ...]:
    """Draw petals around a centre: round, pointed or many."""
    radius, angle = np.hypot(u, v), np.arctan2(u, v) + rng.uniform(0, 6.28)
    wave = np.abs(np.cos(angle * s.parts / 2))
    power = {4: 0.45 * s.sharp, 5: 1.6 * s.sharp, 6: 0.6 * s.sharp}[s.kind]
    depth = {4: s.width, 5: min(0.85, s.width * 1.25), 6: s.width * 0.8}[s.kind]
    reach = 0.95 * (1 - depth + depth * wave**power)
    mask = _edge(reach - radius, px)
    tone, hue = 0.3 + s.tone + rng.uniform(-0.06, 0.06), s.hue + rng.uniform(-0.015, 0.015)
    rays = 0.5 + 0.5 * np.cos(angle * s.parts)
    petal = rgb(hue, 0.2 + 0.75 * s.vein * np.clip(radius, 0.2, 1) ** (0.5 + 6 * s.margin), tone * (0.8 + 0.2 * rays))
    middle = {4: 0.2, 5: 0.13, 6: 0.34}[s.kind] * (0.6 + 0.8 * s.vein)
    dots = 0.85 + 0.15 * np.sin(u * 40) * np.sin(v * 40)
    disc = rgb(s.inner, 0.85, (0.55 + 0.4 * s.sharp / 2) * dots)
    return mask, petal + _edge(middle - radius, px) * (disc - petal)


def _umbel(s: Species, u: np.ndarray, v: np.ndarray, rng: np.random.Generator, px: float) -> tuple[np.ndarray, ...]:
    """Draw many small flowers on a dome, with their stalks."""
    mask, glow = _edge(0.02 - np.abs(u), px) * ((v < 0) & (v > -1.2)), np.zeros_like(u)
    turn = rng.uniform(0, 6.28)
    for k in range(s.parts):
        distance = s.width * 1.15 * np.sqrt((k + 0.5) / s.parts)
        a = turn + k * 2.39996
        fu, fv = u - distance * np.cos(a), v - 0.2 - distance * np.sin(a) * (0.4 + 0.5 * s.sharp)
        near = np.hypot(fu, fv)
        bloom = (0.13 + 0.1 * s.vein) * (0.75 + 0.25 * np.abs(np.cos(2.5 * np.arctan2(fu, fv))))
        mask, glow = np.maximum(mask, _edge(bloom - near, px)), np.maximum(glow, np.clip(1 - near / bloom, 0, 1))
    tone, hue = 0.3 + s.tone + rng.uniform(-0.06, 0.06), s.hue + rng.uniform(-0.015, 0.015)
    bloom_colour = rgb(hue, 0.85 - 0.6 * glow * (0.4 + s.margin * 4), tone)
    return mask, np.where(glow > 0, bloom_colour, rgb(0.28, 0.6, 0.4))


_DRAW: dict[int, Callable[..., tuple[np.ndarray, ...]]] = {
    **dict.fromkeys((0, 1, 3), _leaf),
    2: _palm,
    **dict.fromkeys((4, 5, 6), _flower),
    7: _umbel,
}


def _plant_copies(
    pixels: Pixels, y: np.ndarray, counts: np.ndarray, planted: dict[str, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fill the last pictures with copies; return the origin (-1 = none), the label and the kind of each picture."""
    real, total = len(y), len(pixels)
    origin, label, kind = np.full(total, -1), np.concatenate([y, np.zeros(total - real, int)]), np.zeros(total, int)
    common = np.flatnonzero(counts[y] >= 5)  # a rare species must not lose what it has
    chosen = rng.choice(common, total - real, replace=False)
    place = real
    for number, (name, count) in enumerate(planted.items(), 1):
        for _ in range(count):
            source = int(chosen[place - real])
            pixels[place], origin[place], label[place], kind[place] = pixels[source], source, y[source], number
            if name == "near":
                shifted = np.roll(pixels[source], int(rng.integers(1, 3)) - 1, 2).astype(np.float32)
                noise = rng.normal(0, 1.5, shifted.shape)
                pixels[place] = np.clip(shifted * rng.uniform(0.93, 1.07) + noise, 0, 255).round()
            if name == "conflict":
                genus = y[source] // SPECIES_PER_GENUS * SPECIES_PER_GENUS
                sisters = [s for s in range(genus, min(genus + SPECIES_PER_GENUS, len(counts))) if s != y[source]]
                label[place] = rng.choice(sisters or [(y[source] + 1) % len(counts)])
            place += 1
    return origin, label, kind


def _places(origin: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Where the origin of each picture stands after shuffling; -1 = none."""
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    return np.where(origin[order] >= 0, place[np.maximum(origin[order], 0)], -1)


def _record(place: int, species: Species, number: int, rng: np.random.Generator) -> dict[str, str | int]:
    regions = list(COUNTRIES)
    region = regions[(number + (rng.random() < 0.3)) % len(regions)]
    observer = int(rng.integers(1, 40))
    licence = str(rng.choice(list(LICENCES), p=list(LICENCES.values())))
    return {
        "id": f"specimen-{place:05d}",
        "label": species.name,
        "line": place + 1,
        "source_file": "synthetic",
        "common_name": "",
        "genus": species.genus,
        "family": species.family,
        "region": region,
        "country": str(rng.choice(COUNTRIES[region])),
        "license": licence,
        "attribution": f"Observer {observer}",
    }
