"""The square of a picture around what stands out: spectral residual saliency (Hou and Zhang, CVPR 2007)."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

WORK = 64  # pixels of the longer side that saliency is computed on, as in the paper
THRESHOLD = 0.3  # of the largest saliency
LEAST_AREA = 0.01  # smaller spots are noise: the centre is taken
MARGIN = 1.4  # side of the square over the longer side of the spot
LEAST_SIDE = 0.5  # of the shorter side of the picture: a closer cut would lose the plant's shape


def saliency(picture: Tensor) -> Tensor:
    """Return how much each pixel stands out (H, W) in [0, 1]; all zero where the picture is even.

    What is common in pictures has a smooth log amplitude spectrum; the residual above its local mean, with the phase
    left as it is, transforms back to the uncommon. The power of the colours is added up: a flower may be as bright as
    the leaves behind it.

    Args:
        picture: (3, H, W) float.
    """
    spectrum = torch.fft.fft2(picture.double())
    if spectrum.abs().flatten(1)[:, 1:].max() <= 1e-6 * picture[0].numel():
        return torch.zeros_like(picture[0])
    amplitude = spectrum.abs().clamp_min(1e-8).log()[None]
    mean = F.avg_pool2d(F.pad(amplitude, (1, 1, 1, 1), mode="circular"), 3, stride=1)
    residual = torch.polar((amplitude - mean)[0].exp(), spectrum.angle())
    power = torch.fft.ifft2(residual).abs().square().sum(dim=0).numpy()
    smooth = ndimage.gaussian_filter(power, sigma=2.5, mode="nearest")
    return torch.from_numpy(smooth / smooth.max()).to(picture.dtype)


def smart_box(rgb: np.ndarray) -> tuple[int, int, int]:
    """Return the square (left, top, side) around the largest part that stands out, else the largest central one.

    Args:
        rgb: (H, W, 3) uint8.
    """
    height, width = rgb.shape[:2]
    shorter = min(height, width)
    scale = min(1.0, WORK / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    whole = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).float()
    small = F.interpolate(whole[None], size, mode="area")[0]
    centre = (width - shorter) // 2, (height - shorter) // 2, shorter
    if min(size) < 8:
        return centre
    labels, count = ndimage.label((saliency(small) >= THRESHOLD).numpy())
    if not count:
        return centre
    areas = np.bincount(labels.ravel())[1:]
    if areas.max() < LEAST_AREA * labels.size:
        return centre
    rows, columns = ndimage.find_objects(labels)[int(areas.argmax())]
    step = height / size[0], width / size[1]
    top, bottom = rows.start * step[0], rows.stop * step[0]
    left, right = columns.start * step[1], columns.stop * step[1]
    side = int(min(max(MARGIN * max(bottom - top, right - left), LEAST_SIDE * shorter), shorter))

    def start(low: float, high: float, whole: int) -> int:
        return int(min(max((low + high - side) / 2, 0), whole - side))

    return start(left, right, width), start(top, bottom, height), side
