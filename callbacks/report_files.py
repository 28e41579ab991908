"""Files of a run folder: atomic writers, and the stored predictions.

Every writer makes a temporary file in the target's folder and moves it over the target, so that a reader (or a
killed run) sees the old file or the new one and never a half-written one.
"""

import io
import json
import math
import os
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from safetensors.torch import save as safetensors_bytes

from datamodules.errors import DataError


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write a file atomically and durably; folders are made as needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)  # mkstemp makes private files; a report is as readable as any other file
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text."""
    return write_bytes(path, text.encode("utf-8"))


def plain(value: object) -> object:
    """Turn numpy and torch scalars, paths and tuples into plain JSON values; NaN and infinity become ``None``."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def write_json(path: str | Path, value: object) -> Path:
    """Write indented JSON without NaN (which JSON does not know)."""
    return write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object, or an empty one when the file does not exist."""
    path = Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_csv(path: str | Path, frame: pd.DataFrame, header: bool = True, index: bool = False) -> Path:
    """Write comma-separated UTF-8 with floats in full precision."""
    return write_text(path, frame.to_csv(header=header, index=index, lineterminator="\n"))


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write a compressed npz of plain arrays; object arrays are refused because reading them runs code."""
    for key, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"array {key!r} for {Path(path).name} holds Python objects; convert it to str or numbers")
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes the names for options
    return write_bytes(path, buffer.getvalue())


def write_figure(path: str | Path, figure: Figure, dpi: int = 110) -> Path:
    """Write a figure as PNG without the software's name in it, so that equal pictures are equal bytes.

    Pictures are a good part of a short fit's time. So the figure is laid out, then drawn once; ``savefig`` would draw
    it twice.
    """
    figure.dpi = dpi
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
        figure.set_layout_engine("none")
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None}, pil_kwargs={"compress_level": 3})
    return write_bytes(path, buffer.getvalue())


def write_weights(path: str | Path, state: Mapping[str, torch.Tensor]) -> Path:
    """Write a state dict as safetensors; tensors that share memory are written once each."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    return write_bytes(path, safetensors_bytes(copies))


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of one part of the data, in the order of the records.

    Attributes:
        id: (N,) record names. group: (N,) resampling units. y: (N,) int64 class index, -1 = unlabelled.
        prob: (N, C) float32. class_names: (C,).
    """

    id: np.ndarray
    group: np.ndarray
    y: np.ndarray
    prob: np.ndarray
    class_names: np.ndarray

    def labelled(self) -> "Predictions":
        """Leave out the rows without a label (-1); a class that training never saw (-2) stays, as an error."""
        keep = self.y != -1
        return Predictions(self.id[keep], self.group[keep], self.y[keep], self.prob[keep], self.class_names)

    def save(self, path: str | Path) -> Path:
        """Write the npz of the run folder."""
        text = {name: np.asarray(getattr(self, name), dtype=str) for name in ("id", "group", "class_names")}
        return write_npz(path, {**text, "y": self.y.astype(np.int64), "prob": self.prob.astype(np.float32)})

    @classmethod
    def load(cls, path: str | Path) -> "Predictions":
        """Read an npz written by ``save``.

        Raises:
            DataError: The file is missing, is not such an npz, or its arrays do not fit together.
        """
        try:
            # through open(): a broken archive would otherwise keep numpy's own handle
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                found = cls(**{name: file[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not a predictions file ({error}); run `test` again to write it") from error
        if found.prob.shape != (len(found.id), len(found.class_names)) or len(found.y) != len(found.id):
            raise DataError(f"{path}: prob {found.prob.shape} does not fit {len(found.id)} ids; run `test` again")
        return found


@dataclass(frozen=True)
class Baselines:
    """What the simple models said about the samples of stored predictions.

    Attributes:
        id: (N,) record names, in the order of the labelled predictions. names: (M,) models.
        prob: (M, N, C) float32.
    """

    id: np.ndarray
    names: np.ndarray
    prob: np.ndarray

    @classmethod
    def of(cls, found: Predictions, models: Mapping[str, np.ndarray]) -> "Baselines":
        """Gather the probabilities (N, C) of each model on the samples of labelled predictions."""
        prob = np.stack(list(models.values())) if models else np.zeros((0, *found.prob.shape))
        return cls(found.id, np.array(list(models), dtype=str), prob)

    def save(self, path: str | Path) -> Path:
        """Write the npz of the run folder."""
        text = {"id": np.asarray(self.id, dtype=str), "names": self.names}
        return write_npz(path, {**text, "prob": self.prob.astype(np.float32)})

    @classmethod
    def load(cls, path: str | Path) -> "Baselines":
        """Read an npz written by ``save``.

        Raises:
            DataError: The file is missing or not such an npz.
        """
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                found = cls(**{name: file[name] for name in cls.__dataclass_fields__})
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not a file of baselines ({error}); run `test` again to write it") from error
        if found.prob.shape[:2] != (len(found.names), len(found.id)):
            raise DataError(f"{path}: prob {found.prob.shape} does not fit {len(found.id)} ids; run `test` again")
        return found

    def of_model(self, name: str, found: Predictions) -> Predictions:
        """Return one model's answers to the samples of labelled predictions.

        Raises:
            DataError: They are not about these samples.
        """
        if list(self.id) != list(found.id):
            raise DataError(
                f"the stored baseline {name!r} is about other samples than the predictions; run `test` again"
            )
        prob = self.prob[list(self.names).index(name)]
        return Predictions(found.id, found.group, found.y, prob, found.class_names)
