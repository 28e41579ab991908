"""Hidden states of a frozen text encoder, computed once for all texts of a set and then read from a memory map."""

import hashlib
import inspect
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import MODEL_MAPPING, AutoConfig, AutoModel

from datamodules.errors import DataError
from datamodules.pretrained import locked, unreadable, weights_hash

_FORMAT = "1"  # part of every key: raise it when the content of the files changes


@dataclass(frozen=True)
class States:
    """Hidden states of N texts, one after the other.

    Attributes:
        values: (sum of T, H), most often a read-only memory map.
        offsets: (N + 1,) int64; text i is ``values[offsets[i]:offsets[i + 1]]``.
    """

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def text(self, index: int) -> np.ndarray:
        """(T, H) states of one text: contiguous rows, so that a read costs no more than its bytes."""
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker process that is spawned opens the file again; pickling a map would copy all of it
        if isinstance(self.values, np.memmap) and self.values.filename is not None:
            return _open_states, (str(self.values.filename), self.offsets)
        return States, (self.values, self.offsets)


def _open_states(path: str, offsets: np.ndarray) -> States:
    return States(np.load(path, mmap_mode="r"), offsets)


def pad_states(texts: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Pad the states of B texts to the longest.

    Args:
        texts: B arrays (T, H).

    Returns:
        (B, T, H) float32, zero at padding, and (B, T) bool, True = real token.
    """
    lengths = np.array([len(text) for text in texts])
    mask = np.arange(lengths.max()) < lengths[:, None]
    out = np.zeros((*mask.shape, texts[0].shape[1]), np.float32)
    for row, text in enumerate(texts):
        out[row, : len(text)] = text
    return torch.from_numpy(out), torch.from_numpy(mask)


class EncoderStates:
    """Runs a frozen `transformers` encoder up to one layer, once per set of texts; the results are kept on disk.

    The file is named by the content of the weights, the layer and all token ids, so it can never be stale. It is
    written under another name and moved into place, under a lock: several processes compute it once.

    Args:
        source: Local folder, or id on the hub, of the encoder.
        layer: Layer whose output is kept; 0 is the embedding, None the last. Only BERT-like encoders can be cut.
        pooled: Keep one vector a text, the mean of its tokens, in place of the states of all tokens.
        cache: Folder of the files.
        batch_size: Texts in one pass; they are sorted by length.
        dtype: Precision in the file; half of it takes 2 H bytes a token.
    """

    def __init__(
        self,
        source: str,
        layer: int | None = None,
        pooled: bool = False,
        cache: str = "cache/states",
        batch_size: int = 64,
        dtype: Literal["float16", "float32"] = "float16",
    ) -> None:
        if layer is not None and layer < 0:
            raise ValueError(f"layer={layer} must be at least 0 (the embedding), or left out (the last layer)")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be at least 1")
        if dtype not in ("float16", "float32"):
            raise ValueError(f"dtype={dtype!r} must be 'float16' or 'float32'")
        self.source, self.layer, self.as_vectors = source, layer, pooled
        self.cache, self.batch_size, self.dtype = Path(cache), batch_size, np.dtype(dtype)
        self._config: Any = None
        self._hash = ""

    @property
    def config(self) -> Any:  # noqa: ANN401  # each family of encoders has a class of its own
        """Configuration of the encoder."""
        if self._config is None:
            try:
                self._config = AutoConfig.from_pretrained(self.source)
            except (OSError, ValueError) as error:
                raise DataError(unreadable(self.source, error)) from error
        return self._config

    @property
    def width(self) -> int:
        """Width H of a state."""
        return int(self.config.hidden_size)

    @property
    def depth(self) -> int:
        """Layers that are run.

        Raises:
            DataError: The encoder has fewer than asked for.
        """
        total = int(self.config.num_hidden_layers)
        if self.layer is not None and self.layer > total:
            raise DataError(f"{self.source} has {total} layers, so states.layer={self.layer} is too many")
        return total if self.layer is None else self.layer

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the files of weights and of the configuration."""
        if not self._hash:
            self._hash = weights_hash(self.source)
        return self._hash

    def get(self, ids: Sequence[Sequence[int]], progress_label: str = "texts") -> States:
        """Return the states of all tokens, computed or read.

        Args:
            ids: N lists of token ids, by the encoder's own tokenizer, special tokens included.
            progress_label: What the texts are, for the progress bar.

        Raises:
            DataError: The encoder cannot be read or cut, or a text does not fit it.
        """
        offsets = self._offsets(ids)

        def fill(out: np.ndarray) -> None:
            for rows, states, _ in self._passes(ids, progress_label):
                for row, text in zip(rows, states, strict=True):
                    length = offsets[row + 1] - offsets[row]
                    out[offsets[row] : offsets[row + 1]] = text[:length]

        return States(self._kept(ids, "tokens", (int(offsets[-1]), self.width), self.dtype, fill), offsets)

    def vectors(self, ids: Sequence[Sequence[int]], progress_label: str = "texts") -> np.ndarray:
        """Return (N, H) float32, the mean of each text's tokens; the states themselves are not stored.

        Where the states of these texts were stored already, they are averaged and the encoder does not run; both ways
        average the same rounded states.
        """
        offsets = self._offsets(ids)
        stored = self.cache / f"{self._key(ids, 'tokens', self.dtype)}.npy"

        def fill(out: np.ndarray) -> None:
            if stored.exists():
                out[:] = self.pooled(States(np.load(stored, mmap_mode="r"), offsets))
                return
            for rows, states, mask in self._passes(ids, progress_label):
                rounded = states.astype(self.dtype).astype(np.float32)
                out[rows] = (rounded * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]

        return np.array(self._kept(ids, f"means of {self.dtype}", (len(ids), self.width), np.dtype(np.float32), fill))

    @staticmethod
    def pooled(states: States) -> np.ndarray:
        """(N, H) float32: the mean of each text's tokens, from stored states."""
        out = np.empty((len(states), states.values.shape[1]), np.float32)
        for row in range(len(states)):
            out[row] = states.text(row).mean(axis=0, dtype=np.float32)
        return out

    def _offsets(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        if not len(ids):
            raise DataError("there is no text to encode")
        lengths = np.array([len(text) for text in ids], dtype=np.int64)
        places = int(getattr(self.config, "max_position_embeddings", 0) or lengths.max())
        # RoBERTa-like position tables begin behind the padding index
        places -= self.config.pad_token_id + 1 if self.config.model_type in _OFFSET_POSITIONS else 0
        largest = max(max(text, default=0) for text in ids)
        for bad, what in ((lengths == 0, "no token"), (lengths > places, f"more than {places} tokens")):
            if bad.any():
                raise DataError(f"text {int(np.flatnonzero(bad)[0])} has {what}, which {self.source} cannot encode; "
                                "shorten the texts (title_len, abstract_len) or leave empty ones out")  # fmt: skip
        if largest >= self.config.vocab_size:
            raise DataError(f"token id {largest} is outside the {self.config.vocab_size} of {self.source}: "
                            "tokenise with the tokenizer of the encoder")  # fmt: skip
        return np.concatenate([[0], np.cumsum(lengths)])

    def _key(self, ids: Sequence[Sequence[int]], kind: str, dtype: np.dtype) -> str:
        total = hashlib.sha256(f"{_FORMAT} {self.weights_hash} {self.depth} {kind} {dtype}".encode())
        for text in ids:
            total.update(np.asarray([len(text), *text], dtype="<i4").tobytes())
        return total.hexdigest()[:40]

    def _kept(
        self,
        ids: Sequence[Sequence[int]],
        kind: str,
        shape: tuple[int, int],
        dtype: np.dtype,
        fill: Callable[[np.ndarray], None],
    ) -> np.ndarray:
        """Open the file of these texts; the first process that asks makes it."""
        path = self.cache / f"{self._key(ids, kind, dtype)}.npy"
        self.cache.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock")):
            if not path.exists():
                self._write(path, shape, dtype, fill)
        try:
            found = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: damaged ({error}); remove it, and it is made again") from error
        if found.shape != shape:
            raise DataError(f"{path}: holds {found.shape}, not {shape}; remove it, and it is made again")
        return found

    def _write(
        self, path: Path, shape: tuple[int, int], dtype: np.dtype, fill: Callable[[np.ndarray], None]
    ) -> None:
        size, free = shape[0] * shape[1] * dtype.itemsize, shutil.disk_usage(self.cache).free
        if size > free:
            raise DataError(f"{self.cache}: the states need {size / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
                            "shorten the texts, set states.pooled, or choose another states.cache")  # fmt: skip
        temporary = path.with_suffix(f".{os.getpid()}.part")
        try:
            out = np.lib.format.open_memmap(temporary, "w+", dtype, shape)
            fill(out)
            out.flush()
            del out
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @torch.inference_mode()
    def _passes(
        self, ids: Sequence[Sequence[int]], label: str
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield rows (B,), states (B, T, H) and mask (B, T); the longest texts first, so that memory fails early."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model, limit = self._encoder().to(device), float(np.finfo(self.dtype).max)
        order = np.argsort([-len(text) for text in ids], kind="stable")
        print(f"encoding {len(ids)} {label} with {self.source}, layer {self.depth} (once; kept in {self.cache})")
        for start in tqdm(range(0, len(order), self.batch_size), desc=label, unit="batch", disable=None):
            rows = order[start : start + self.batch_size]
            lengths = np.array([len(ids[row]) for row in rows])
            mask = np.arange(lengths.max()) < lengths[:, None]
            tokens = np.zeros(mask.shape, np.int64)
            tokens[mask] = np.concatenate([np.asarray(ids[row]) for row in rows])
            given = torch.from_numpy(tokens).to(device), torch.from_numpy(mask).to(device)
            out = model(input_ids=given[0], attention_mask=given[1].long()).last_hidden_state.float()
            states = out.cpu().numpy()
            if not np.abs(states[mask]).max() <= limit:  # false for NaN too
                raise DataError(f"{self.source}: a state is not finite in {self.dtype}; set states.dtype to float32")
            yield rows, states, mask

    def _encoder(self) -> nn.Module:
        """Load the encoder, without a pooler, cut behind the layer."""
        wanted = self.depth
        options = {}
        kind = MODEL_MAPPING.get(type(self.config), None)
        if kind is not None and "add_pooling_layer" in inspect.signature(kind.__init__).parameters:
            options["add_pooling_layer"] = False
        try:
            model, info = AutoModel.from_pretrained(self.source, output_loading_info=True, **options)
        except (OSError, ValueError) as error:
            raise DataError(unreadable(self.source, error)) from error
        if info["missing_keys"]:  # they would be random numbers
            raise DataError(f"{self.source} lacks weights of its encoder: {sorted(info['missing_keys'])[:3]}")
        if wanted < self.config.num_hidden_layers:
            stack = getattr(getattr(model, "encoder", None), "layer", None)
            if not isinstance(stack, nn.ModuleList):
                raise DataError(f"{self.source} ({self.config.model_type}) has no encoder.layer that could be cut: "
                                "leave states.layer out, which takes the last one")  # fmt: skip
            model.encoder.layer = stack[:wanted]
        model.eval().requires_grad_(False)
        return model


_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "longformer", "mpnet")
