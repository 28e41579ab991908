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
