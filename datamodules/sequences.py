"""Transforms of one sequence of frames: training augmentations on raw values, and features for the network.

Each transform is called with a float32 tensor (T, F) and a numpy generator and returns a new float32 tensor (T', F');
the same generator state gives the same result. The arithmetic is numpy: on arrays this small it costs a fraction of the
tensor calls.

Joint transforms read a frame as F / 3 joints of x, y, z.
"""

from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float32]


class SequenceTransform(Protocol):
    """What a transform of a sequence looks like."""

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Map (T, F) to (T', F')."""
        ...


def frames(x: Tensor) -> Array:
    """The sequence as a float32 array of at least one frame.

    Raises:
        ValueError: not (T, F), or no frame.
    """
    if x.ndim != 2 or x.shape[0] == 0:
        raise ValueError(f"expected a sequence of shape (T, F) with T >= 1, got {tuple(x.shape)}")
    return x.detach().numpy().astype(np.float32, copy=False)


def joints(x: Tensor, count: int | None = None) -> Array:
    """The sequence as (T, joints, 3).

    Raises:
        ValueError: F is not 3 per joint.
    """
    array = frames(x)
    width = array.shape[1]
    if width % 3 or (count is not None and width != 3 * count):
        wanted = "a multiple of 3" if count is None else f"{3 * count} ({count} joints x 3)"
        raise ValueError(f"expected a sequence of shape (T, F) with F = {wanted}, got {tuple(x.shape)}")
    return array.reshape(len(array), -1, 3)


def flat(array: NDArray[np.floating]) -> Tensor:
    """Back to a float32 tensor (T, F)."""
    return torch.from_numpy(np.ascontiguousarray(array.reshape(len(array), -1), dtype=np.float32))


def sample_at(array: Array, position: NDArray[np.floating]) -> Array:
    """Values at fractional frame positions, by linear interpolation along the first axis."""
    low = np.minimum(position.astype(np.int64), len(array) - 1)
    high = np.minimum(low + 1, len(array) - 1)
    part = (position - low).astype(np.float32).reshape(-1, *[1] * (array.ndim - 1))
    return array[low] * (1 - part) + array[high] * part


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise a ValueError unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{name}={value} must lie between {low} and {high}")


# ---- length


class Resample:
    """Linear resampling over time to `length` frames.

    Args:
        length: Frames wanted.
        only_longer: Leave sequences alone that are not longer than `length`.
    """

    def __init__(self, length: int = 48, only_longer: bool = False) -> None:
        if length < 1:
            raise ValueError(f"length={length} must be at least 1")
        self.length, self.only_longer = length, only_longer

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Map (T, F) to (length, F); draws nothing."""
        array = frames(x)
        if len(array) == self.length or (self.only_longer and len(array) < self.length):
            return flat(array)
        return flat(sample_at(array, np.linspace(0, len(array) - 1, self.length)))

    def output_dim(self, input_dim: int) -> int:
        """Features of a frame stay as they are."""
        return input_dim


# ---- augmentations


class Jitter:
    """Adds normal noise to every value.

    Args:
        std: Standard deviation, in units of the data.
    """

    def __init__(self, std: float = 0.001) -> None:
        check_range("std", std, 0, float("inf"))
        self.std = std

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Map (T, F) to (T, F)."""
        array = frames(x)
        return flat(array + np.float32(self.std) * rng.standard_normal(array.shape, dtype=np.float32))


class Scale:
    """Multiplies the whole sequence by one factor.

    Args:
        low: Smallest factor.
        high: Largest factor.
    """

    def __init__(self, low: float = 0.8, high: float = 1.2) -> None:
        check_range("low", low, 0, high)
        self.low, self.high = low, high

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Map (T, F) to (T, F)."""
        return flat(frames(x) * np.float32(rng.uniform(self.low, self.high)))


class Rotate3D:
    """Rotates all joints of a sequence about their common centre by one random rotation.

    Args:
        degrees: Largest angle about each of the x, y and z axes.
    """

    def __init__(self, degrees: float = 20.0) -> None:
        check_range("degrees", degrees, 0, 180)
        self.degrees = degrees

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Map (T, 3 J) to (T, 3 J); distances between joints stay."""
        points = joints(x)
        angle = np.radians(rng.uniform(-self.degrees, self.degrees, 3))
        (ca, cb, cc), (sa, sb, sc) = np.cos(angle), np.sin(angle)
        about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
        about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
        about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
        turn = (about_z @ about_y @ about_x).astype(np.float32)
        centre = points.mean((0, 1))
        return flat((points - centre) @ turn.T + centre)


class TimeWarp:
    """Speeds a sequence up and down smoothly; length, first and last frame stay.

    Args:
        strength: Spread of the local speed, 0 = none; about 0.5 gives speeds between one half and double.
        knots: Points between which the speed is interpolated.
    """

    def __init__(self, strength: float = 0.4, knots: int = 4) -> None:
        check_range("strength", strength, 0, 2)
        check_range("knots", knots, 2, 100)
        self.strength, self.knots = strength, knots

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Map (T, F) to (T, F)."""
        array = frames(x)
        log_speed = rng.normal(0.0, self.strength, self.knots)
        if len(array) < 3:
            return flat(array)
        speed = np.exp(np.interp(np.linspace(0, 1, len(array) - 1), np.linspace(0, 1, self.knots), log_speed))
        position = np.concatenate([[0.0], np.cumsum(speed)])
        return flat(sample_at(array, position * ((len(array) - 1) / position[-1])))


class FrameDrop:
    """Drops single frames; the first and the last stay.

    Args:
        p: Probability of a frame.
    """

    def __init__(self, p: float = 0.1) -> None:
        check_range("p", p, 0, 1)
        self.p = p

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Map (T, F) to (T', F), T' <= T."""
        array = frames(x)
        keep = rng.random(len(array)) >= self.p
        keep[0] = keep[-1] = True
        return flat(array[keep])


class Crop:
    """Keeps one random run of consecutive frames.

    Args:
        min_share: Smallest share of the frames kept, above 0.
    """

    def __init__(self, min_share: float = 0.8) -> None:
        check_range("min_share", min_share, 0.01, 1)
        self.min_share = min_share

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Map (T, F) to (T', F), T' <= T."""
        array = frames(x)
        kept = max(1, round(len(array) * rng.uniform(self.min_share, 1.0)))
        start = int(rng.integers(0, len(array) - kept + 1))
        return flat(array[start : start + kept])


class JointNoise:
    """Moves each joint by one offset that stays through the sequence: a hand of other proportions.

    Args:
        std: Standard deviation of an offset, in units of the data.
    """

    def __init__(self, std: float = 0.003) -> None:
        check_range("std", std, 0, float("inf"))
        self.std = std

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Map (T, 3 J) to (T, 3 J)."""
        points = joints(x)
        return flat(points + np.float32(self.std) * rng.standard_normal((1, *points.shape[1:]), dtype=np.float32))


# ---- features


class RelativeTo:
    """Positions relative to one point of the frame, which is left out: the place of the person falls away.

    Args:
        point: Index of the point that becomes the origin.
        dims: Coordinates of a point, 2 or 3.
        scale: Length that becomes one, in units of the data.
    """

    def __init__(self, point: int, dims: int = 3, scale: float = 1.0) -> None:
        if dims not in (2, 3) or point < 0 or not scale > 0:
            raise ValueError(f"need dims 2 or 3, point >= 0 and scale > 0, got {dims}, {point} and {scale}")
        self.point, self.dims, self.scale = point, dims, scale

    def output_dim(self, input_dim: int) -> int:
        """Features of a frame after the transform.

        Raises:
            ValueError: a frame has no such point.
        """
        if input_dim % self.dims or input_dim // self.dims <= self.point:
            raise ValueError(f"frames of {input_dim} values have no point {self.point} of {self.dims} coordinates")
        return input_dim - self.dims

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Map (T, F) to (T, F - dims); draws nothing."""
        array = frames(x)
        self.output_dim(array.shape[1])
        points = array.reshape(len(array), -1, self.dims)
        others = np.delete(points, self.point, axis=1) - points[:, self.point : self.point + 1]
        return flat(others / np.float32(self.scale))


HAND_JOINTS = 22  # wrist, palm, then base, first, second, tip of thumb, index, middle, ring, little finger
WRIST, PALM, INDEX_BASE, MIDDLE_BASE, LITTLE_BASE = 0, 1, 6, 10, 18
PAIRS = np.flatnonzero(np.triu(np.ones((HAND_JOINTS, HAND_JOINTS)), 1))

Stream = Literal["shape", "frame", "distances", "motion", "trajectory", "orientation"]
STREAM_DIM = {"shape": 66, "frame": 66, "distances": 231, "motion": 66, "trajectory": 3, "orientation": 15}


class HandFeatures:
    """Features of a hand of 22 joints (order of SHREC'17), divided by the size of the hand.

    Streams: `shape` = joints relative to the palm (66); `frame` = the same in axes fixed to the hand, so free of its
    orientation (66); `distances` between all pairs of joints (231); `motion` = displacement of the joints over a lag
    (66 for each lag); `trajectory` = palm relative to its mean place (3); `orientation` = the hand's axes (9), and its
    pointing direction and palm normal in the axes of the first frame (6).

    Args:
        streams: Features wanted, in this order.
        lags: Frames between the two ends of a `motion`; the first frames of a sequence have none and get zeros.
    """

    def __init__(
        self,
        streams: tuple[Stream, ...] = ("shape", "frame", "distances", "motion", "trajectory", "orientation"),
        lags: tuple[int, ...] = (1, 3),
    ) -> None:
        unknown = [s for s in streams if s not in STREAM_DIM]
        if unknown or not streams:
            raise ValueError(f"streams={list(streams)}: choose from {list(STREAM_DIM)}")
        if any(lag < 1 for lag in lags) or not lags:
            raise ValueError(f"lags={list(lags)}: each must be at least 1")
        self.streams, self.lags = tuple(streams), tuple(lags)

    def output_dim(self, input_dim: int) -> int:
        """Features of a frame after the transform.

        Raises:
            ValueError: a frame is not 22 joints x 3.
        """
        if input_dim != 3 * HAND_JOINTS:
            raise ValueError(f"expected frames of {3 * HAND_JOINTS} values (22 joints x 3), got {input_dim}")
        return sum(STREAM_DIM[s] * (len(self.lags) if s == "motion" else 1) for s in self.streams)

    def __call__(self, x: Tensor, rng: np.random.Generator) -> Tensor:
        """Map (T, 66) to (T, output_dim); draws nothing."""
        points = joints(x, HAND_JOINTS)
        # wrist to the base of the middle finger: one length per sequence, safe against a bad frame
        size = float(np.median(length(points[:, MIDDLE_BASE] - points[:, WRIST])))
        points = points * np.float32(1 / max(size, 1e-6))
        local = points - points[:, PALM : PALM + 1]
        axes = hand_axes(local)
        parts: list[NDArray[np.floating]] = []
        for stream in self.streams:
            if stream == "shape":
                parts.append(local)
            elif stream == "frame":
                parts.append(local @ axes.transpose(0, 2, 1))
            elif stream == "distances":
                parts.append(pair_distances(local))
            elif stream == "motion":
                parts.extend(motion(points, lag) for lag in self.lags)
            elif stream == "trajectory":
                parts.append(points[:, PALM] - points[:, PALM].mean(0))
            else:
                parts.extend([axes, axes[:, [0, 2]] @ axes[0].T])
        return flat(np.concatenate([p.reshape(len(points), -1) for p in parts], axis=1))


def pair_distances(points: Array) -> Array:
    """Distances between all pairs of joints, (T, J, 3) to (T, J (J - 1) / 2)."""
    product = points @ points.transpose(0, 2, 1)
    square = np.diagonal(product, axis1=1, axis2=2)
    # |a - b|^2 = |a|^2 + |b|^2 - 2ab: one small matrix product instead of a (T, pairs, 3) array
    squared = square[:, :, None] + square[:, None, :] - 2 * product
    return np.sqrt(np.maximum(squared.reshape(len(points), -1)[:, PAIRS], 0))


def length(vectors: Array) -> Array:
    """Euclidean length along the last axis, which is kept; never zero."""
    return np.sqrt(np.maximum((vectors * vectors).sum(-1, keepdims=True), 1e-12))


def cross(a: Array, b: Array) -> Array:
    """Cross product of (T, 3) arrays; numpy's own costs several times more on arrays this small."""
    return a[:, [1, 2, 0]] * b[:, [2, 0, 1]] - a[:, [2, 0, 1]] * b[:, [1, 2, 0]]


def hand_axes(local: Array) -> Array:
    """Rows of (T, 3, 3): pointing direction, sideways, palm normal; orthonormal in each frame.

    Args:
        local: (T, 22, 3) joints.
    """
    forward = local[:, MIDDLE_BASE] - local[:, WRIST]
    side = local[:, LITTLE_BASE] - local[:, INDEX_BASE]
    forward = forward / length(forward)
    normal = cross(forward, side)
    normal = normal / length(normal)
    return np.stack([forward, cross(normal, forward), normal], axis=1)


def motion(points: Array, lag: int) -> Array:
    """Displacement over `lag` frames, zeros where there is no earlier frame; shape as `points`."""
    out = np.zeros_like(points)
    out[lag:] = points[lag:] - points[:-lag]
    return out
