"""Transforms of a sequence: what each keeps, what it changes, and that its randomness is the generator's alone."""

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.sequences import (
    STREAM_DIM,
    Crop,
    FrameDrop,
    HandFeatures,
    Jitter,
    JointNoise,
    RelativeTo,
    Resample,
    Rotate3D,
    Scale,
    SequenceTransform,
    TimeWarp,
)

AUGMENTATIONS = [Jitter(), Scale(), Rotate3D(), TimeWarp(), FrameDrop(0.3), Crop(0.5), JointNoise()]
TRANSFORMS = [*AUGMENTATIONS, Resample(16), HandFeatures()]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def name(transform: SequenceTransform) -> str:
    return type(transform).__name__


def distances(x: Tensor) -> Tensor:
    """(T, F) to the distances between all joints of a frame."""
    points = x.view(len(x), -1, 3)
    return torch.cdist(points, points)


@pytest.fixture
def hand() -> Tensor:
    """A hand of 22 joints that moves smoothly for 30 frames, in metres."""
    draw = rng(7)
    start, drift = draw.normal(0, 0.05, (1, 22, 3)), draw.normal(0, 0.01, (1, 1, 3))
    bend = draw.normal(0, 0.002, (1, 22, 3)) * np.arange(30)[:, None, None]
    return torch.from_numpy((start + drift * np.arange(30)[:, None, None] + bend).reshape(30, 66)).float()


@pytest.mark.parametrize("transform", TRANSFORMS, ids=name)
def test_same_generator_same_result_and_input_untouched(transform: SequenceTransform, hand: Tensor) -> None:
    before = hand.clone()
    first = transform(hand, rng())
    torch.manual_seed(5)
    assert torch.equal(first, transform(hand, rng()))
    assert torch.equal(hand, before)
    assert first.dtype == torch.float32 and first.is_contiguous() and first.isfinite().all()


@pytest.mark.parametrize("transform", AUGMENTATIONS, ids=name)
def test_other_generator_other_result(transform: SequenceTransform, hand: Tensor) -> None:
    first, second = transform(hand, rng(0)), transform(hand, rng(1))
    assert first.shape != second.shape or not torch.equal(first, second)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=name)
@pytest.mark.parametrize("length", [1, 2, 3])
def test_short_sequences_survive(transform: SequenceTransform, length: int, hand: Tensor) -> None:
    out = transform(hand[:length], rng())
    assert len(out) >= 1 and out.isfinite().all()


@pytest.mark.parametrize("transform", TRANSFORMS, ids=name)
@pytest.mark.parametrize("shape", [(66,), (0, 66), (2, 3, 66)])
def test_wrong_rank_is_refused(transform: SequenceTransform, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected a sequence of shape \(T, F\)"):
        transform(torch.zeros(shape), rng())


@pytest.mark.parametrize("transform", [Rotate3D(), JointNoise(), HandFeatures()], ids=name)
def test_wrong_width_is_refused(transform: SequenceTransform) -> None:
    with pytest.raises(ValueError, match=r"F = (a multiple of 3|66 \(22 joints x 3\)), got \(5, 64\)"):
        transform(torch.zeros(5, 64), rng())
    with pytest.raises(ValueError, match="expected frames of 66 values"):
        HandFeatures().output_dim(64)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Resample(0), lambda: Jitter(-1), lambda: Scale(1.2, 0.8), lambda: Rotate3D(200), lambda: TimeWarp(-0.1),
        lambda: TimeWarp(0.3, 1), lambda: FrameDrop(1.5), lambda: Crop(0), lambda: JointNoise(-1),
        lambda: HandFeatures(()), lambda: HandFeatures(("hair",)), lambda: HandFeatures(lags=(0,)),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(build) -> None:
    with pytest.raises(ValueError):
        build()


def test_rotation_keeps_distances_and_centre(hand: Tensor) -> None:
    out = Rotate3D(90)(hand, rng())
    torch.testing.assert_close(distances(out), distances(hand), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.view(-1, 3).mean(0), hand.view(-1, 3).mean(0), atol=1e-5, rtol=0)
    assert (out - hand).abs().max() > 0.01
    # a rotation, not a reflection: the determinant of three joint vectors keeps its sign
    triple = lambda x: torch.linalg.det(x.view(30, 22, 3)[0, 1:4] - x.view(30, 22, 3)[0, :1])  # noqa: E731
    torch.testing.assert_close(triple(out), triple(hand), atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(Rotate3D(0)(hand, rng()), hand, atol=1e-6, rtol=0)


def test_time_warp_keeps_ends_and_path(hand: Tensor) -> None:
    out = TimeWarp(0.8)(hand, rng())
    assert out.shape == hand.shape
    torch.testing.assert_close(out[[0, -1]], hand[[0, -1]], atol=1e-6, rtol=0)
    assert (out - hand).abs().max() > 1e-3
    # the path is a straight line in time here: a warp moves frames along it, never off it or backwards
    position = ((out - hand[0]) @ (hand[-1] - hand[0])) / (hand[-1] - hand[0]).square().sum()
    assert (position.diff() > 0).all()
    torch.testing.assert_close(TimeWarp(0.0)(hand, rng()), hand, atol=1e-6, rtol=0)


def test_frame_drop_keeps_order_and_ends() -> None:
    x = torch.arange(200.0).unsqueeze(1)
    out = FrameDrop(0.25)(x, rng()).squeeze(1)
    assert out[0] == 0 and out[-1] == 199 and (out.diff() >= 1).all()
    assert 120 < len(out) < 180
    assert torch.equal(FrameDrop(0.0)(x, rng()), x)
    assert len(FrameDrop(1.0)(x, rng())) == 2


def test_crop_is_one_run_of_frames() -> None:
    x = torch.arange(100.0).unsqueeze(1)
    lengths, starts = set(), set()
    for seed in range(50):
        out = Crop(0.6)(x, rng(seed)).squeeze(1)
        assert (out.diff() == 1).all() and 60 <= len(out) <= 100
        lengths.add(len(out))
        starts.add(out[0].item())
    assert len(lengths) > 10 and len(starts) > 10
    assert torch.equal(Crop(1.0)(x, rng()), x)


def test_scale_is_one_factor(hand: Tensor) -> None:
    ratio = Scale(0.5, 2.0)(hand, rng()) / hand
    assert ratio.max() - ratio.min() < 1e-4 and 0.5 <= ratio.mean() <= 2.0


def test_noise_has_the_stated_size(hand: Tensor) -> None:
    assert 0.0009 < (Jitter(0.001)(hand, rng()) - hand).std() < 0.0011
    offset = JointNoise(0.003)(hand, rng()) - hand
    assert offset.std(0).max() < 1e-6 and 0.002 < offset[0].std() < 0.004


def test_resample_is_linear_and_keeps_ends() -> None:
    x = torch.linspace(0, 1, 11).unsqueeze(1)
    torch.testing.assert_close(Resample(21)(x, rng()), torch.linspace(0, 1, 21).unsqueeze(1))
    torch.testing.assert_close(Resample(6)(x, rng()), torch.linspace(0, 1, 6).unsqueeze(1))
    assert torch.equal(Resample(21, only_longer=True)(x, rng()), x)
    assert len(Resample(6, only_longer=True)(x, rng())) == 6
    assert Resample(4).output_dim(66) == 66


@pytest.mark.parametrize("stream", STREAM_DIM)
def test_feature_sizes(stream: str, hand: Tensor) -> None:
    features = HandFeatures((stream,), lags=(1, 2))
    assert features(hand, rng()).shape == (30, features.output_dim(66))


def test_features_are_the_streams_side_by_side(hand: Tensor) -> None:
    whole = HandFeatures()(hand, rng())
    assert whole.shape == (30, HandFeatures().output_dim(66)) == (30, 513)
    parts = [HandFeatures((stream,))(hand, rng()) for stream in STREAM_DIM]
    torch.testing.assert_close(whole, torch.cat(parts, 1))


def test_features_do_not_depend_on_place_or_size_of_the_hand(hand: Tensor) -> None:
    moved = (hand.view(30, 22, 3) * 1.7 + torch.tensor([0.3, -0.2, 0.5])).reshape(30, 66)
    torch.testing.assert_close(HandFeatures()(moved, rng()), HandFeatures()(hand, rng()), atol=2e-3, rtol=1e-3)


def test_shape_streams_ignore_rotation_and_others_do_not(hand: Tensor) -> None:
    turned = Rotate3D(60)(hand, rng())
    for stream in STREAM_DIM:
        features = HandFeatures((stream,))
        same = torch.allclose(features(turned, rng()), features(hand, rng()), atol=2e-3)
        assert same == (stream in ("frame", "distances"))


def test_distances_and_motion_values(hand: Tensor) -> None:
    size = (hand.view(30, 22, 3)[:, 10] - hand.view(30, 22, 3)[:, 0]).norm(dim=-1).median()
    points = hand.view(30, 22, 3) / np.median(
        (hand.view(30, 22, 3)[:, 10] - hand.view(30, 22, 3)[:, 0]).norm(dim=-1).numpy()
    )
    upper = torch.triu_indices(22, 22, 1)
    wanted = torch.cdist(points, points)[:, upper[0], upper[1]]
    torch.testing.assert_close(HandFeatures(("distances",))(hand, rng()), wanted, atol=1e-3, rtol=1e-3)
    moved = HandFeatures(("motion",), lags=(2,))(hand, rng()).view(30, 22, 3)
    assert size > 0 and (moved[:2] == 0).all()
    torch.testing.assert_close(moved[2:], points[2:] - points[:-2], atol=1e-5, rtol=1e-4)


def test_relative_to_takes_the_place_of_the_person_away():
    x = torch.randn(5, 6)
    moved = x + torch.tensor([30.0, -7.0]).repeat(3)
    transform = RelativeTo(point=2, dims=2, scale=10.0)
    rng = np.random.default_rng(0)
    torch.testing.assert_close(transform(x, rng), transform(moved, rng), atol=1e-5, rtol=0)
    expected = (x.view(5, 3, 2)[:, :2] - x.view(5, 3, 2)[:, 2:]) / 10
    torch.testing.assert_close(transform(x, rng).view(5, 2, 2), expected)
    assert transform.output_dim(6) == 4
    with pytest.raises(ValueError, match="no point 2"):
        transform(torch.randn(5, 4), rng)
