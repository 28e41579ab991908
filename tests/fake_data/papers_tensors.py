"""Batches of `papers` as tensors, in every form, without texts or files; the class is planted in the tokens."""

from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from datamodules.base import IGNORE, SplitDataModule

VOCAB, CLASSES, CROSSLISTS, WORDS, WIDTH = 40, ["cs.AI", "cs.CL", "cs.CV"], 4, 12, 16
Form = Literal["tokens", "single", "states", "vectors"]


class PaperTensors(SplitDataModule):
    """Papers whose tokens say the class; one extra label, keywords and further targets on demand.

    Args:
        form: Kind of input.
        keywords: Keywords of a paper; 0 for none.
        terms: Terms of a paper; 0 for none.
        auxiliary: Give the further targets.
        labels: Give all labels, too.
        samples: Number of papers.
        batch_size: Batch size.
    """

    def __init__(
        self,
        form: Form = "tokens",
        keywords: int = 0,
        terms: int = 0,
        auxiliary: bool = False,
        labels: Literal["single", "multi"] = "single",
        samples: int = 60,
        batch_size: int = 8,
    ):
        super().__init__(batch_size=batch_size)
        self.form, self.keywords, self.auxiliary, self.labels, self.samples = form, keywords, auxiliary, labels, samples
        self.terms = terms
        self.states = None
        self.vocab_size = VOCAB if form in ("tokens", "single") else 0
        self.num_keywords = WORDS if keywords else 0
        self.num_terms = WORDS if terms else 0
        self.num_crosslists = CROSSLISTS if auxiliary else 0
        self.input_width = {"states": WIDTH, "vectors": 2 * WIDTH}.get(form, 0)

    def read_records(self):
        self.source_classes = list(CLASSES)
        self.labels_of = np.arange(self.samples) % len(CLASSES)
        ids = [f"p{i:03d}" for i in range(self.samples)]
        labels = [CLASSES[i] for i in self.labels_of]
        return pd.DataFrame({"id": ids, "group": ids, "hash": ids, "label": labels, "given": ""}, dtype=str)

    def dataset(self, indices, train):
        return Papers(self, self.y if self.y is not None else np.full(len(self.records), IGNORE))

    def read_predict_records(self):
        return self.read_records()


class Papers(Dataset):
    def __init__(self, data, y):
        self.data, self.y = data, y

    def __getitems__(self, batch):
        data, rows = self.data, np.array(batch.indices)
        real = np.arange(len(rows)) < batch.real
        out = {
            "y": torch.from_numpy(np.where(real, self.y[rows], IGNORE)),
            "id": torch.from_numpy(np.where(real, rows, -1)),
            "weight": torch.from_numpy(np.where(real, batch.weight, 0).astype(np.float32)),
        }
        rngs = [np.random.default_rng([7, row]) for row in rows]
        classes = data.labels_of[rows]
        if data.form == "vectors":
            pairs = zip(rngs, classes, strict=True)
            out["vector"] = torch.stack([torch.from_numpy(made(rng, 1, c, WIDTH * 2)[0]) for rng, c in pairs])
        else:
            fields = {"single": {"text": 20}}.get(data.form, {"title": 6, "abstract": 14})
            for field, longest in fields.items():
                out |= field_of(data.form, field, longest, rngs, classes)
        if data.keywords:
            out |= keywords_of(rngs, classes, data.keywords)
        if data.terms:
            found = keywords_of(rngs, classes, data.terms)
            out |= {f"term_{name}": found[f"keyword_{name}"] for name in ("ids", "weights", "mask")}
        if data.auxiliary:
            out["y_crosslist"] = torch.from_numpy(np.eye(CROSSLISTS, dtype=np.float32)[classes])
            out["y_learning"] = torch.from_numpy((classes == 0).astype(np.float32))
            out["y_length"] = torch.from_numpy(classes.astype(np.float32) - 1)
        if data.labels == "multi":
            hot = np.eye(len(CLASSES), dtype=np.float32)
            out["y_labels"] = torch.from_numpy(np.maximum(hot[classes], hot[(classes + rows % 2) % len(CLASSES)]))
        return out


def made(rng, length, label, width):
    """(length, width) states: noise, and the class in its own dimensions."""
    x = rng.normal(size=(length, width)).astype(np.float32)
    x[:, label * 4 : label * 4 + 4] += 2
    return x


def field_of(form, field, longest, rngs, classes):
    lengths = [int(rng.integers(3, longest + 1)) for rng in rngs]
    width = max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    if form == "states":
        x = torch.zeros(len(rngs), width, WIDTH)
        for row, (rng, label) in enumerate(zip(rngs, classes, strict=True)):
            x[row, : lengths[row]] = torch.from_numpy(made(rng, lengths[row], label, WIDTH))
        return {f"{field}_states": x, f"{field}_mask": mask}
    ids = torch.zeros(len(rngs), width, dtype=torch.int64)
    for row, (rng, label) in enumerate(zip(rngs, classes, strict=True)):
        tokens = np.where(rng.random(lengths[row]) < 0.6, 4 + label * 4 + rng.integers(4, size=lengths[row]), 30)
        ids[row, : lengths[row]] = torch.from_numpy(np.r_[2, tokens[1:-1], 3])
    return {f"{field}_ids": ids, f"{field}_mask": mask}


def keywords_of(rngs, classes, count):
    ids = torch.zeros(len(rngs), count, dtype=torch.int64)
    weights, mask = torch.zeros(len(rngs), count), torch.zeros(len(rngs), count, dtype=torch.bool)
    links = torch.zeros(len(rngs), count, count)
    for row, (rng, label) in enumerate(zip(rngs, classes, strict=True)):
        n = int(rng.integers(0, count + 1))
        ids[row, :n] = torch.from_numpy((label * 4 + rng.choice(4, size=n)).astype(np.int64))
        weights[row, :n], mask[row, :n] = 0.5, True
        pairs = torch.triu((torch.from_numpy(rng.random((n, n))) < 0.5).float(), 1)
        links[row, :n, :n] = pairs + pairs.T
    return {"keyword_ids": ids, "keyword_weights": weights, "keyword_mask": mask, "keyword_links": links}
