"""Augmentation of a batch of pictures on any device, from uniform numbers that are keyed by (seed, epoch, picture).

The numbers are drawn where the batch is made; what is done with them is a pure function, without a random stream and
without waiting for the device. Pictures are float32 (B, 3, H, W) in 0..255 between the steps.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.plants_randaugment import DRAWS_PER_OP, rand_augment

FIXED_DRAWS = 16  # uniform numbers for everything but RandAugment
_GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augment:
    """What happens to a training picture, in this order; 0 (or 1 for an area) switches a part off.

    Args:
        random_crop: The part of the stored picture that is seen lies anywhere, and not in the middle.
        min_area: Least share of the stored picture's area that is seen, drawn between this and 1 and scaled to the
            training size (Inception crop); 1 sees a part of the training size.
        max_stretch: Largest ratio of the two scales of an Inception crop.
        flip: Probability of a mirror image.
        vertical_flip: Probability of an upside-down image.
        degrees: Largest angle of a rotation.
        randaugment_ops: Operations of RandAugment (Cubuk et al. 2020).
        randaugment_magnitude: Their strength, 0 to 30.
        color_jitter: Largest change of brightness, contrast and saturation.
        hue: Largest change of hue, as a share of the colour circle, at most 0.5.
        erasing: Probability that a rectangle is erased (Zhong et al. 2020).
        erasing_area: Largest share of the area that is erased.

    Raises:
        ValueError: For values outside of their range.
    """

    random_crop: bool = True
    min_area: float = 1.0
    max_stretch: float = 1.0
    flip: float = 0.5
    vertical_flip: float = 0.0
    degrees: float = 0.0
    randaugment_ops: int = 0
    randaugment_magnitude: float = 9.0
    color_jitter: float = 0.0
    hue: float = 0.0
    erasing: float = 0.0
    erasing_area: float = 0.25

    def __post_init__(self) -> None:
        for name in ("flip", "vertical_flip", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"augment.{name} is a probability, got {getattr(self, name)}")
        if not 0 < self.min_area <= 1 or self.max_stretch < 1 or not 0 < self.erasing_area <= 1:
            raise ValueError("augment needs min_area and erasing_area in (0, 1] and max_stretch of at least 1")
        if not 0 <= self.hue <= 0.5 or not 0 <= self.color_jitter < 1 or self.degrees < 0:
            raise ValueError("augment needs hue in [0, 0.5], color_jitter in [0, 1) and degrees of at least 0")
        if self.randaugment_ops < 0 or not 0 <= self.randaugment_magnitude <= 30:
            raise ValueError("augment needs randaugment_ops of at least 0 and a magnitude of 0 to 30")

    @property
    def draws(self) -> int:
        """Uniform numbers that one picture needs."""
        return FIXED_DRAWS + DRAWS_PER_OP * self.randaugment_ops


def uniforms(seed: int, epoch: int, rows: np.ndarray, count: int) -> np.ndarray:
    """Return float32 numbers (B, count) in [0, 1), the same for a picture wherever it stands in a batch.

    A counter through the finaliser of SplitMix64 (Steele, Lea, Flood 2014); several hundred thousand in a millisecond.
    """
    with np.errstate(over="ignore"):
        key = _mix(_mix(np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15)) + np.uint64(epoch))
        each = _mix(key + rows.astype(np.uint64) * np.uint64(0xD1342543DE82EF95))
        counter = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        return ((_mix(each[:, None] + counter) >> np.uint64(40)).astype(np.float64) / 2**24).astype(np.float32)


def _mix(x: np.ndarray | np.uint64) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def augment(image: Tensor, draws: Tensor, settings: Augment, size: int) -> Tensor:
    """Return augmented pictures (B, 3, size, size), float32 in 0..255.

    Args:
        image: Stored pictures (B, 3, S, S), S >= size.
        draws: Uniform numbers (B, ``settings.draws``).
        settings: What to do.
        size: Side of the result.
    """
    image = _geometry(image.float(), draws[:, :8], settings, size)
    if settings.randaugment_ops:
        image = rand_augment(image, draws[:, FIXED_DRAWS:], settings.randaugment_magnitude)
    if settings.color_jitter or settings.hue:
        image = _jitter(image, draws[:, 8:12], settings.color_jitter, settings.hue)
    if settings.erasing:
        image = _erase(image, draws[:, 12:16], settings.erasing, settings.erasing_area)
    return image


def centre(image: Tensor, size: int) -> Tensor:
    """Return the central part (..., size, size) of pictures (..., S, S)."""
    start = (image.shape[-1] - size) // 2
    return image[..., start : start + size, start : start + size]


def _geometry(image: Tensor, u: Tensor, settings: Augment, size: int) -> Tensor:
    """Crop, scale, mirror and turn in one resampling, so that a picture is blurred once at most."""
    stored = image.shape[-1]
    if settings.min_area == 1 and not settings.degrees and not settings.vertical_flip:
        image = _window(image, u[:, 0], u[:, 1], size) if settings.random_crop else centre(image, size)
        if not settings.flip:
            return image
        return torch.where((u[:, 2] < settings.flip).view(-1, 1, 1, 1), image.flip(3), image)
    if settings.min_area < 1:
        side = (settings.min_area + (1 - settings.min_area) * u[:, 4]).sqrt()
        stretch = settings.max_stretch ** (0.5 * (2 * u[:, 5] - 1))
        wide, high = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
    else:
        wide = high = torch.full_like(u[:, 0], size / stored)
    free = float(settings.random_crop)
    x, y = (2 * u[:, 0] - 1) * (1 - wide) * free, (2 * u[:, 1] - 1) * (1 - high) * free
    mirror = torch.where(u[:, 2] < settings.flip, -1.0, 1.0)
    down = torch.where(u[:, 3] < settings.vertical_flip, -1.0, 1.0)
    angle = (2 * u[:, 6] - 1) * (settings.degrees * torch.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    rows = [wide * mirror * cos, -wide * mirror * sin, x, high * down * sin, high * down * cos, y]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), [len(image), 3, size, size], align_corners=False)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _window(image: Tensor, x: Tensor, y: Tensor, size: int) -> Tensor:
    """Cut a window at a place of its own from each picture, without resampling."""
    room, span = image.shape[-1] - size + 1, torch.arange(size, device=image.device)
    left, top = (x * room).long()[:, None] + span, (y * room).long()[:, None] + span
    rows = image.gather(2, top[:, None, :, None].expand(-1, 3, -1, image.shape[3]))
    return rows.gather(3, left[:, None, None, :].expand(-1, 3, size, -1))


def grey(image: Tensor) -> Tensor:
    """Return the luminance (B, 1, H, W)."""
    weight = torch.tensor(_GREY, device=image.device, dtype=image.dtype)
    return (image * weight.view(1, 3, 1, 1)).sum(1, keepdim=True)


def _jitter(image: Tensor, u: Tensor, strength: float, hue: float) -> Tensor:
    """Change brightness, then contrast, then saturation, then hue, each picture by amounts of its own."""
    factor = (1 + strength * (2 * u - 1)).view(-1, 4, 1, 1, 1)
    if strength:
        image = (image * factor[:, 0]).clamp(0, 255)
        middle = grey(image).mean((2, 3), keepdim=True)
        image = (middle + factor[:, 1] * (image - middle)).clamp(0, 255)
        pale = grey(image)
        image = (pale + factor[:, 2] * (image - pale)).clamp(0, 255)
    if not hue:
        return image
    # Turning the colour plane about the grey axis is a change of hue that keeps the luminance of YIQ.
    angle = (2 * u[:, 3] - 1) * (hue * 2 * torch.pi)
    to_yiq = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    to_yiq = to_yiq.to(image)
    one, zero, cos, sin = torch.ones_like(angle), torch.zeros_like(angle), angle.cos(), angle.sin()
    turn = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], 1).view(-1, 3, 3)
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq
    return torch.einsum("bij,bjhw->bihw", matrix, image).clamp(0, 255)


def _erase(image: Tensor, u: Tensor, p: float, largest: float) -> Tensor:
    """Replace a rectangle of some pictures by the picture's mean colour."""
    size = image.shape[-1]
    # the first number decides, and rescaled it is uniform again: the area, from 2 % of the picture on
    area = 0.02 + (largest - 0.02) * (u[:, 0] / p).clamp(0, 1) if largest > 0.02 else largest * torch.ones_like(u[:, 0])
    ratio = torch.exp((2 * u[:, 1] - 1) * float(np.log(3.0)))
    high, wide = (area * ratio).sqrt().clamp(max=1) * size, (area / ratio).sqrt().clamp(max=1) * size
    top, left = u[:, 2] * (size - high), u[:, 3] * (size - wide)
    place = torch.arange(size, device=image.device) + 0.5
    inside_y = (place >= top[:, None]) & (place < (top + high)[:, None])
    inside_x = (place >= left[:, None]) & (place < (left + wide)[:, None])
    hidden = inside_y[:, None, :, None] & inside_x[:, None, None, :] & (u[:, 0] < p).view(-1, 1, 1, 1)
    return torch.where(hidden, image.mean((2, 3), keepdim=True), image)
