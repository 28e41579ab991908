"""Augmentation on batches: keyed by picture, each knob of its own, the operations those of torchvision."""

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from datamodules.plants_augmentation import Augment, augment, centre, uniforms
from datamodules.plants_randaugment import OPERATIONS, operate

OFF = Augment(random_crop=False, flip=0.0)
KNOBS = {
    "random_crop": True,
    "min_area": 0.4,
    "flip": 1.0,
    "vertical_flip": 1.0,
    "degrees": 30.0,
    "randaugment_ops": 2,
    "color_jitter": 0.4,
    "hue": 0.3,
    "erasing": 1.0,
}


@pytest.fixture
def image():
    """Smooth colourful pictures (6, 3, 40, 40)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:40, :40] / 40
    waves = [np.sin(6 * (a * x + b * y) + c) for a, b, c in rng.uniform(-1, 1, (18, 3)) * [2, 2, 6]]
    return torch.from_numpy((127 + 100 * np.stack(waves).reshape(6, 3, 40, 40)).astype(np.uint8))


def draws(settings, rows=6, seed=0, epoch=0):
    return torch.from_numpy(uniforms(seed, epoch, np.arange(rows), settings.draws))


def test_uniform_numbers_are_keyed_by_seed_epoch_and_picture():
    rows = np.array([5, 900, 5])
    base = uniforms(0, 0, rows, 32)
    assert np.array_equal(base[0], base[2]) and not np.array_equal(base[0], base[1])
    assert np.array_equal(uniforms(0, 0, np.array([900]), 32)[0], base[1])
    assert not np.array_equal(uniforms(1, 0, rows, 32), base) and not np.array_equal(uniforms(0, 1, rows, 32), base)
    many = uniforms(3, 7, np.arange(4000), 16)
    assert many.min() >= 0 and many.max() < 1
    assert abs(many.mean(0) - 0.5).max() < 0.02 and abs(many.var(0) - 1 / 12).max() < 0.01
    assert abs(np.corrcoef(many.T) - np.eye(16)).max() < 0.06


def test_without_any_change_the_central_part_is_left(image):
    assert torch.equal(augment(image, draws(OFF), OFF, 32), centre(image, 32).float())
    # the resampling of a crop of the training size, not turned, gives the same pixels
    turned = dataclasses.replace(OFF, degrees=1e-6)
    assert (augment(image, draws(OFF), turned, 32) - centre(image, 32)).abs().max() < 0.1


@pytest.mark.parametrize("knob", KNOBS)
def test_each_knob_changes_pictures_and_alone_decides(image, knob):
    settings = dataclasses.replace(OFF, **{knob: KNOBS[knob]})
    out = augment(image, draws(settings), settings, 32)
    assert out.shape == (6, 3, 32, 32) and out.dtype == torch.float32
    assert 0 <= out.min() and out.max() <= 255
    changed = (out - centre(image, 32)).abs().amax((1, 2, 3)) > 1
    assert changed.sum() >= 4
    assert torch.equal(out, augment(image, draws(settings), settings, 32))
    other = augment(image, draws(settings, epoch=1), settings, 32)
    assert knob in ("flip", "vertical_flip") or not torch.equal(out, other)


def test_a_picture_is_the_same_alone_and_in_a_batch(image):
    settings = Augment(True, 0.5, 1.3, 0.5, 0.2, 20.0, 2, 12.0, 0.3, 0.1, 0.5)
    u = draws(settings)
    whole = augment(image, u, settings, 32)
    for i in range(6):
        alone = augment(image[i : i + 1], u[i : i + 1], settings, 32)[0]
        assert (alone - whole[i]).abs().max() < 1e-2


def test_a_mirror_image_and_a_window_are_exact(image):
    mirrored = dataclasses.replace(OFF, flip=1.0)
    assert torch.equal(augment(image, draws(mirrored), mirrored, 32), centre(image, 32).flip(3).float())
    window = dataclasses.replace(OFF, random_crop=True)
    out = augment(image, draws(window), window, 32)
    places = [
        [(a, b) for a in range(9) for b in range(9) if torch.equal(image[i, :, a : a + 32, b : b + 32].float(), out[i])]
        for i in range(6)
    ]
    assert all(places) and len({place[0] for place in places}) > 3
    upright = dataclasses.replace(OFF, vertical_flip=1.0)
    flipped = augment(image, draws(upright), upright, 32)
    assert (flipped - centre(image, 32).flip(2)).abs().max() < 0.1


def test_probabilities_and_areas_of_erasing():
    settings = dataclasses.replace(OFF, erasing=0.3, erasing_area=0.2)
    image = torch.zeros(2000, 3, 16, 16)
    image[:, :, ::2] = 200.0
    hidden = (augment(image, draws(settings, 2000), settings, 16) == 100).float().mean((1, 2, 3))
    assert abs((hidden > 0).float().mean() - 0.3) < 0.05
    assert hidden.max() < 0.27


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("direction", [-1.0, 1.0])
def test_the_operations_are_those_of_torchvision(image, name, direction):
    level = 0.5
    pixels = image.float()
    which = torch.full((6,), OPERATIONS.index(name))
    out = operate(pixels, which, torch.full((6,), direction), level)
    factor, shift = 1 + 0.9 * level * direction, int(150 / 331 * level * 40) * direction
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], "fill": [0.0]}
    shear = float(np.degrees(np.arctan(0.3 * level * direction)))
    reference = {
        "identity": lambda: image,
        "shear_x": lambda: tv.affine(image, **still | {"shear": [shear, 0.0]}),
        "shear_y": lambda: tv.affine(image, **still | {"shear": [0.0, shear]}),
        "translate_x": lambda: tv.affine(image, **still | {"translate": [shift, 0]}),
        "translate_y": lambda: tv.affine(image, **still | {"translate": [0, shift]}),
        "rotate": lambda: tv.rotate(image, 30 * level * direction, fill=[0.0]),
        "brightness": lambda: tv.adjust_brightness(image, factor),
        "color": lambda: tv.adjust_saturation(image, factor),
        "contrast": lambda: tv.adjust_contrast(image, factor),
        "sharpness": lambda: tv.adjust_sharpness(image, factor),
        "posterize": lambda: tv.posterize(image, 8 - round(4 * level)),
        "solarize": lambda: tv.solarize(image, 255 * (1 - level)),
        "autocontrast": lambda: tv.autocontrast(image),
        "equalize": lambda: tv.equalize(image),
    }
    names = (name,) if name not in OPERATIONS[1:6] else (name, "other direction")
    gaps = []
    for _ in names:  # a direction may be called plus or minus
        gaps.append(float((out - reference[name]().float()).abs().mean()))
        out = operate(pixels, which, torch.full((6,), -direction), level)
    limit = 3.0 if name in OPERATIONS[1:6] else 1.2  # geometry rounds pixels elsewhere, colours round values
    assert min(gaps) < limit, gaps


def test_hue_turns_colours_and_keeps_greys():
    settings = dataclasses.replace(OFF, hue=0.5)
    grey = torch.full((6, 3, 8, 8), 90.0)
    assert (augment(grey, draws(settings), settings, 8) - grey).abs().max() < 0.5
    red = torch.zeros(6, 3, 8, 8)
    red[:, 0] = 200
    assert augment(red, draws(settings), settings, 8)[:, 0].min() < 150


@pytest.mark.parametrize(
    "wrong", [{"flip": 1.5}, {"min_area": 0.0}, {"max_stretch": 0.5}, {"hue": 0.7}, {"randaugment_magnitude": 40.0}]
)
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"augment"):
        Augment(**wrong)
