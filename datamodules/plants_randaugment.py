"""RandAugment for a batch: each picture draws its own operations and signs, the whole batch is computed at once.

Operations and their strengths are those of torchvision's ``RandAugment``; all fourteen are computed for the batch and
each picture takes its own, so that nothing waits for the device. Pictures are float32 (B, 3, H, W) in 0..255.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

DRAWS_PER_OP = 2  # which operation, and its sign
OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast"),
    *("sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
_GEOMETRY = OPERATIONS[1:6]


def rand_augment(image: Tensor, draws: Tensor, magnitude: float) -> Tensor:
    """Apply one operation after the other.

    Args:
        image: Pictures.
        draws: Uniform numbers (B, 2 n) for n operations.
        magnitude: 0 to 30.
    """
    for start in range(0, draws.shape[1], DRAWS_PER_OP):
        which = (draws[:, start] * len(OPERATIONS)).long()
        sign = torch.where(draws[:, start + 1] < 0.5, -1.0, 1.0)
        image = operate(image, which, sign, magnitude / 30)
    return image


def operate(image: Tensor, which: Tensor, sign: Tensor, level: float) -> Tensor:
    """Apply the operation of each picture.

    Args:
        image: Pictures.
        which: Index into ``OPERATIONS`` (B,).
        sign: -1 or 1 (B,), for the operations that have two directions.
        level: Strength in [0, 1].
    """
    result = _move(image, which, sign, level)
    for name, changed in (
        *_blends(image, sign, level),
        ("posterize", _posterize(image, level)),
        ("solarize", torch.where(image >= 255 * (1 - level), 255 - image, image)),
        ("autocontrast", _autocontrast(image)),
        ("equalize", _equalize(image)),
    ):
        result = torch.where((which == OPERATIONS.index(name)).view(-1, 1, 1, 1), changed, result)
    return result


def _move(image: Tensor, which: Tensor, sign: Tensor, level: float) -> Tensor:
    """Shear, shift or turn; other pictures go through unchanged. What comes in from outside is black."""
    chosen = {name: (which == OPERATIONS.index(name)).to(image.dtype) * sign for name in _GEOMETRY}
    angle = chosen["rotate"] * (level * 30 * torch.pi / 180)
    shift = 2 * level * 150 / 331  # of the half side; the paper's 150 pixels are of a picture of 331
    cos, sin = angle.cos(), angle.sin()
    rows = [
        cos,
        sin + 0.3 * level * chosen["shear_x"],
        shift * chosen["translate_x"],
        -sin + 0.3 * level * chosen["shear_y"],
        cos,
        shift * chosen["translate_y"],
    ]
    matrix = torch.stack(rows, 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
    moved = F.grid_sample(image, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    still = sum((value.abs() for value in chosen.values()), torch.zeros_like(sign)) == 0
    return torch.where(still.view(-1, 1, 1, 1), image, moved)


def _blends(image: Tensor, sign: Tensor, level: float) -> list[tuple[str, Tensor]]:
    """Return the mixtures with black, grey, the mean and the smoothed picture, by name."""
    factor = (1 + 0.9 * level * sign).view(-1, 1, 1, 1)
    weight = torch.tensor([0.299, 0.587, 0.114], device=image.device, dtype=image.dtype)
    pale = (image * weight.view(1, 3, 1, 1)).sum(1, keepdim=True)
    others = {
        "brightness": torch.zeros_like(image),
        "color": pale.expand_as(image),
        "contrast": pale.mean((2, 3), keepdim=True).expand_as(image),
        "sharpness": _smoothed(image),
    }
    return [(name, (other + factor * (image - other)).clamp(0, 255)) for name, other in others.items()]


def _smoothed(image: Tensor) -> Tensor:
    """Smooth with the kernel of PIL; the outermost pixels stay."""
    kernel = torch.ones(3, 3, device=image.device, dtype=image.dtype)
    kernel[1, 1] = 5
    inner = F.conv2d(image, (kernel / 13).expand(3, 1, 3, 3), groups=3)
    out = image.clone()
    out[:, :, 1:-1, 1:-1] = inner
    return out


def _posterize(image: Tensor, level: float) -> Tensor:
    step = 2.0 ** round(4 * level)  # keeps 8 to 4 bits
    return (image / step).floor() * step


def _autocontrast(image: Tensor) -> Tensor:
    low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
    return torch.where(high > low, (image - low) * (255 / (high - low).clamp_min(1e-6)), image)


def _equalize(image: Tensor) -> Tensor:
    """Spread the values of each channel evenly over 0..255."""
    batch, channels, height, width = image.shape
    index = image.round().clamp(0, 255).long().view(batch * channels, -1)
    count = torch.zeros(batch * channels, 256, device=image.device)
    count.scatter_add_(1, index, torch.ones_like(index, dtype=count.dtype))
    last = count.gather(1, index.amax(1, keepdim=True))
    step = ((height * width - last) / 255).floor()
    before = count.cumsum(1) - count
    table = ((before + (step / 2).floor()) / step.clamp_min(1)).floor().clamp(0, 255)
    spread = table.gather(1, index).view_as(image)
    return torch.where((step > 0).view(batch, channels, 1, 1), spread, image)
