"""Random numbers that belong to a sample and not to a place in a batch: the same for any batch, process or resume."""

import math

import torch
from torch import Tensor

# Steps and multipliers of SplitMix64 (Steele, Lea, Flood 2014), as signed numbers; products wrap as there.
_STEP, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
_BITS = 24  # of a uniform number: all that float32 tells apart


def keyed_normal(keys: Tensor, shape: tuple[int, ...], *seed: int) -> Tensor:
    """Return standard normal numbers that depend on the key of each sample, and on nothing else of its batch.

    Nothing is read back from the device, and no random stream is touched.

    Args:
        keys: (B,) int64, one number a sample, such as its ``id``.
        shape: Shape of the numbers of one sample.
        seed: Further numbers that they depend on, such as the seed of the run and the epoch.

    Returns:
        (B, *shape) float32.
    """
    size = math.prod(shape)
    state = keys.long()
    for number in (*seed, len(seed)):
        state = _mixed(state * _FIRST + _signed((number + 1) * _STEP))
    counter = torch.arange(1, (size + 1) // 2 + 1, device=keys.device)
    bits = _mixed(state[:, None] + counter * _STEP)  # one word makes two numbers (Box and Muller 1958)
    radius = (-2 * ((_shifted(bits, 64 - _BITS) + 1) / 2**_BITS).log()).sqrt()
    angle = (_shifted(bits, 8) & (2**_BITS - 1)) * (2 * math.pi / 2**_BITS)
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
    return pairs.flatten(1)[:, :size].reshape(len(keys), *shape)


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shift right as if there were no sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """Wrap a whole number to 64 bits with a sign."""
    return (number + 2**63) % 2**64 - 2**63
