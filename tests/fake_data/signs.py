"""Tiny `.npz` files in the format of the sign and gesture sequences."""

from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def sign_arrays(
    classes: int = 3, per_class: int = 8, frames: int = 12, features: int = 6, seed: int = 0, split: bool = False
) -> Arrays:
    """Learnable sequences: each class moves around its own centre; pairs of rows share a group.

    Padding holds zeros; lengths lie between 4 and `frames`, and one sequence is as long as `frames`.
    """
    rng = np.random.default_rng(seed)
    n = classes * per_class
    y = np.arange(n) % classes
    centre = 2.0 * rng.normal(size=(classes, features))
    lengths = rng.integers(4, frames + 1, size=n)
    lengths[-1] = frames
    mask = np.arange(frames) < lengths[:, None]
    x = (centre[y][:, None] + 0.3 * rng.normal(size=(n, frames, features))).astype(np.float32)
    arrays = {
        "X": np.where(mask[..., None], x, 0).astype(np.float32),
        "mask": mask,
        "y": y.astype(np.int64),
        "class_names": np.array([f"sign {chr(97 + i)}" for i in range(classes)]),
        "groups": np.arange(n) // (2 * classes) * classes + y,
        "filenames": np.array([f"take_{i:03d}.mp4" for i in range(n)]),
    }
    if split:
        part = np.arange(n) // (2 * classes) % 4
        arrays["split"] = np.array(["train", "train", "val", "test"])[part]
    return arrays


def write_signs(path: Path, arrays: Arrays | None = None, **changes: np.ndarray | None) -> Path:
    """Write a file; keyword arguments replace arrays, and None leaves an array out."""
    content = dict(sign_arrays() if arrays is None else arrays)
    for key, value in changes.items():
        if value is None:
            content.pop(key)
        else:
            content[key] = value
    np.savez_compressed(path, **content)  # type: ignore[arg-type]
    return path


def hand_file(path: Path) -> Path:
    """Write a file of the form of shrec17.npz: 66 values a frame, subjects as groups, an official split."""
    rng = np.random.default_rng(0)
    rows, frames = 48, 24
    y = np.arange(rows) % 4
    groups = np.arange(rows) // 8
    x = rng.normal(0, 0.05, (rows, frames, 66)) + y[:, None, None] * np.linspace(0, 0.1, frames)[:, None]
    mask = np.arange(frames) < rng.integers(8, frames + 1, rows)[:, None]
    np.savez(
        path,
        X=(x * mask[..., None]).astype(np.float32),
        mask=mask,
        y=y,
        y14=y // 2,
        groups=groups,
        split=np.where(groups >= 4, "test", "train"),
        class_names=np.array(["Grab 1", "Grab 2", "Tap 1", "Tap 2"]),
    )
    return path


def word_file(path: Path) -> Path:
    """Write a file of the form of boston104.npz: 6 values a frame in pixels, sentences, signers, an official split."""
    rng = np.random.default_rng(1)
    rows, frames = 48, 12
    y = np.arange(rows) % 4
    video = np.arange(rows) // 4
    x = 150 + rng.normal(0, 3, (rows, frames, 6)) + y[:, None, None] * np.linspace(0, 20, frames)[:, None]
    mask = np.arange(frames) < rng.integers(3, frames + 1, rows)[:, None]
    np.savez(
        path,
        X=(x * mask[..., None]).astype(np.float32),
        mask=mask,
        y=y,
        groups=rows % 3 + np.zeros(rows, int),
        video=video,
        split=np.where(video >= 8, "test", "train"),
        class_names=np.array(["JOHN", "IX", "GIVE", "BOOK"]),
    )
    return path
