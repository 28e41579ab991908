"""What the shared tests need of `signs`: the file of a user, and what each variant needs to run offline."""

from pathlib import Path

import numpy as np

from tests.fake_data.signs import hand_file, word_file


def write(folder: Path, labels: bool = True, rename: dict[str, str] | None = None) -> Path:
    """Write the synthetic signs of the tiny config as a user's file.

    Args:
        folder: Where.
        labels: Whether the file holds labels.
        rename: New names of classes.
    """
    from datamodules.synthetic.signs import CLASS_NAMES, make_signs

    made = make_signs(240)
    x = np.zeros((len(made.x), max(map(len, made.x)), made.x[0].shape[1]), np.float32)
    mask = np.zeros(x.shape[:2], bool)
    for row, frames in enumerate(made.x):
        x[row, : len(frames)], mask[row, : len(frames)] = frames, True
    arrays = {"X": x, "mask": mask, "filenames": np.array(made.ids)}
    if labels:
        classes = [(rename or {}).get(name, name) for name in CLASS_NAMES]
        arrays |= {"y": made.y, "class_names": np.array(classes), "groups": np.array(made.groups)}
    path = folder / ("señas.npz" if labels else "new.npz")
    np.savez(path, **arrays)
    return path


def words(variant: Path, folder: Path) -> list[str]:
    """Return what a variant needs besides the tiny config; real data get a file of the same form."""
    makers = {"signs_shrec17": hand_file, "signs_boston104": word_file}
    if variant.stem not in makers:
        return []
    return ["--data.path", str(makers[variant.stem](folder / "tiny.npz")), "--model.num_classes", "4"]
