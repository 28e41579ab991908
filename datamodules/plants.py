"""Pictures of plants by species: JSON Lines, a folder, a hub data set, or the embedded synthetic data."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import Dataset

from datamodules.audit import STORED, Finding
from datamodules.base import IGNORE, SplitDataModule
from datamodules.curriculum import Curriculum
from datamodules.errors import DataError
from datamodules.plants_augmentation import Augment, augment, centre, uniforms
from datamodules.plants_baselines import PlantsBaselines
from datamodules.plants_cleaning import ConflictPolicy, clean
from datamodules.plants_decoded import Decoded, DecodedImages, stamp_of
from datamodules.plants_filters import Licences, keep_rows
from datamodules.plants_hub import HubImages
from datamodules.plants_images import Framing, Interpolation, timm_picture
from datamodules.plants_judging import class_levels, facets
from datamodules.plants_records import Columns, largest_classes, read_source, untrained
from datamodules.plants_saliency import smart_box
from datamodules.plants_split import explain, write_parts
from datamodules.plants_teachers import TaughtDataset, Teachers, combined
from datamodules.samplers import Batch, IndexBatch
from datamodules.synthetic.plants import make_plants


class PlantsData(SplitDataModule):
    """One picture a record, one species each.

    A picture is decoded once, as a square of ``image_size / crop`` pixels, into a file that all processes map into
    memory. What is judged is its central part of ``image_size``; what is trained on is cut and changed by ``augment``,
    on the device, by numbers that are keyed by (seed, epoch, picture).

    Batch: ``image`` (B, 3, S, S), uint8 or, augmented, float32, in 0..255: the network normalises it. Before
    :meth:`on_after_batch_transfer` a training batch holds stored pictures and their ``draws`` (B, K).

    Args:
        path: A JSON Lines file; a folder with train.jsonl, val.jsonl and test.jsonl; or a folder with one folder of
            pictures per class. None is the embedded synthetic data, never a stand-in for what cannot be read.
        val_path: JSON Lines file of the validation part; ``path`` is then that of the training part.
        test_path: JSON Lines file of the test part.
        hub: Data set of the hub, or a local folder or file that ``datasets`` reads, in place of a path.
        predict_path: As ``path``, for pictures to predict; they need no class.
        columns: Names of the fields.
        image_cache: Folder that the verb ``cache`` has filled, for records with an address in place of a path.
        decoded: Folder for decoded pictures.
        timm_config: Name of a timm model whose own size, interpolation and crop are taken where the next three are
            left out.
        image_size: Side of what the network sees, in pixels.
        crop: Share of a stored picture's side that the network sees.
        interpolation: How pictures are scaled.
        framing: ``crop``: the central square; ``pad``: the whole picture on black; ``smart``: the square around what
            stands out.
        min_side: Least pixels of the shorter side of a picture.
        max_side: Most pixels of the longer side.
        bad_pictures: Pictures that cannot be used are left out and counted, or the data are refused.
        regions: Regions to keep, in all parts alike (EU_SW, EU_NORTH, ..., UNKNOWN); None keeps all.
        licences: ``permissive`` keeps what allows commercial use and changes: CC0, public domain, CC-BY, CC-BY-SA.
        conflicts: What happens to a picture under several species.
        near_distance: Bits (of 256) by which two pictures may differ to count as copies; 0 compares contents only.
        min_images_per_class: Classes with fewer different pictures are left out.
        augment: What happens to training pictures.
        synthetic_samples: Number of synthetic pictures (without ``path``).
        synthetic_species: Their species.
        synthetic_seed: Their seed.
        simple_models: Fit the simple models that stand beside the network.
        batch_size: Global batch size, over all processes.
        num_workers: Loader processes.
        balanced: Draw the training samples so that each class is equally likely.
        sample_weights: CSV (id, weight) of how much each training sample counts.
        predict_part: ``predict`` answers for this part of the run's own split, in place of ``predict_path``.
        curriculum: Easy training samples first, by the predictions of another run.
        teachers: Stored predictions that a student learns from.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        hub: str | None = None,
        predict_path: str | None = None,
        columns: Columns = Columns(),  # noqa: B008  # frozen
        image_cache: str | None = None,
        decoded: str = "cache/decoded",
        timm_config: str | None = None,
        image_size: int | None = 64,
        crop: float | None = 0.875,
        interpolation: Interpolation | None = "bicubic",
        framing: Framing = "crop",
        min_side: int = 16,
        max_side: int = 12000,
        bad_pictures: Literal["drop", "refuse"] = "drop",
        regions: list[str] | None = None,
        licences: Licences = "any",
        conflicts: ConflictPolicy = "drop",
        near_distance: int = 40,
        min_images_per_class: int = 1,
        augment: Augment = Augment(),  # noqa: B008  # frozen
        synthetic_samples: int = 2400,
        synthetic_species: int = 60,
        synthetic_seed: int = 0,
        simple_models: bool = True,
        batch_size: int = 64,
        num_workers: int = 0,
        balanced: bool = False,
        sample_weights: str | None = None,
        predict_part: Literal["train", "val", "calib"] | None = None,
        curriculum: Curriculum | None = None,
        teachers: Teachers | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            bucket=False,
            balanced=balanced,
            sample_weights=sample_weights,
            predict_part=predict_part,
            curriculum=curriculum,
        )
        if path is not None and hub is not None:
            raise ValueError("path and hub exclude each other: give one source")
        if path is None and (val_path or test_path):
            raise ValueError("val_path and test_path need path, the file of the training part")
        self.path, self.val_path, self.test_path, self.hub = path, val_path, test_path, hub
        self.predict_path, self.columns, self.image_cache, self.decoded = predict_path, columns, image_cache, decoded
        self.image_size, self.crop, self.interpolation = timm_picture(timm_config, image_size, crop, interpolation)
        self.framing, self.min_side, self.max_side = framing, min_side, max_side
        self.regions, self.licences, self.teachers = regions, licences, teachers
        self.bad_pictures, self.conflicts, self.near_distance = bad_pictures, conflicts, near_distance
        self.min_images_per_class, self.augment, self.simple_models = min_images_per_class, augment, simple_models
        self.synthetic_samples, self.synthetic_species = synthetic_samples, synthetic_species
        self.synthetic_seed = synthetic_seed
        self.stored_size = max(self.image_size, round(self.image_size / self.crop))
        self.pixels = np.zeros((0, 3, self.stored_size, self.stored_size), np.uint8)
        self._findings: list[Finding] = []
        self._simple = PlantsBaselines()
        self._taught: np.ndarray | None = None

    # reading

    def read_records(self) -> pd.DataFrame:
        """Read, decode and clean the source; only what can be trained on is left."""
        self._findings = []
        records = self._with_pictures(self.path, labels=True)
        records, found = clean(records, self.pixels, self.conflicts, self.near_distance)
        self._findings += found
        records = self._once(records)
        self._findings += untrained(records)
        if self.min_images_per_class > 1:
            records, classes, rows = largest_classes(records, self.min_images_per_class)
            if classes:
                message = (f"{classes} classes with fewer than {self.min_images_per_class} different pictures are left "
                           f"out ({rows} records).")  # fmt: skip
                self._findings.append(Finding("small_classes_left_out", "info", message, classes))
        for finding in self._findings:
            rank_zero_info(f"plants: {finding}")
        self.source_classes = sorted(set(records["label"]) - {""})
        self._simple = PlantsBaselines()
        return records

    def read_predict_records(self) -> pd.DataFrame:
        """Read the pictures to predict; what cannot be used is named and left out."""
        if self.predict_path is None:
            return super().read_predict_records()
        self._findings = []
        records = self._with_pictures(self.predict_path, labels=False)
        for finding in self._findings:
            rank_zero_info(f"plants: {finding}")
        self.table, self.y = None, None  # a split of the training data says nothing about these records
        records = records.assign(label="", given="")
        return records.assign(group=records["group"].where(records["group"] != "", records["id"]))

    def findings(self) -> list[Finding]:
        """Return what was found while reading."""
        return list(self._findings)

    def _with_pictures(self, path: str | None, labels: bool) -> pd.DataFrame:
        """Read records and their pixels; those without a usable picture are counted and left out."""
        hub = HubImages(self.hub, self.columns) if path is None and self.hub is not None else None
        if path is None and hub is None:
            made = make_plants(self.synthetic_samples, self.synthetic_species, self.stored_size, self.synthetic_seed)
            self.pixels = made.pixels
            return self._filtered(made.records)
        if hub is not None:
            records, keys, stamps, read = hub.records, hub.keys, [hub.fingerprint] * len(hub.keys), hub.read
        else:
            assert path is not None
            parts = {"val": self.val_path, "test": self.test_path} if labels else None
            records = read_source(path, self.columns, parts, self.image_cache, labels)
            records = self._filtered(records) if labels else records
            keys = records["file"].tolist()
            stamps = [stamp_of(key) for key in keys]

            def read(i: int) -> bytes:
                return Path(keys[i]).read_bytes()

        store = DecodedImages(
            self.decoded, self.stored_size, self.framing, self.interpolation, self.min_side, self.max_side, smart_box
        )
        found = store.take(keys, stamps, read)
        self.pixels = found.pixels
        records = self._usable(records.assign(hash=found.hashes, row=found.rows), found, STORED if labels else None)
        return self._filtered(records) if hub is not None and labels else records

    def _filtered(self, records: pd.DataFrame) -> pd.DataFrame:
        records, found = keep_rows(records, self.regions, self.licences)
        self._findings += found
        return records

    def _usable(self, records: pd.DataFrame, found: Decoded, named: int | None) -> pd.DataFrame:
        """Keep the records with a picture; of the others so many are named, all for ``None``."""
        good = found.rows >= 0
        if good.all():
            return records
        bad = records[~good]
        reasons = [problem for problem in found.problems if problem]
        lines = [
            f"{file}, line {line}: {name}: {reason}"
            for file, line, name, reason in zip(bad["source_file"], bad["line"], bad["id"], reasons, strict=True)
        ]
        message = f"{len(bad)} of {len(records)} pictures cannot be used"
        if self.bad_pictures == "refuse" or not good.any():
            raise DataError(f"{message}, such as {lines[0]}; mend or remove them, or leave them out with "
                            "--data.bad_pictures drop")  # fmt: skip
        self._findings.append(Finding("unusable_picture", "warning", f"{message} and are left out.", len(bad),
                                      bad["id"].tolist()[:named], lines[:named]))  # fmt: skip
        return records[good].reset_index(drop=True)

    def _once(self, records: pd.DataFrame) -> pd.DataFrame:
        """Keep the first of several records of the same file and class."""
        key = ["id", "label", "hash"]
        again = records.duplicated(key)
        if again.any():
            message = f"{int(again.sum())} records repeat an earlier one (same picture, same class) and are left out."
            self._findings.append(Finding("repeated_record", "info", message, int(again.sum())))
        first = records.groupby(key)["given"].transform("first")
        crossing = records[again & (records["given"] != first) & (records["given"] != "") & (first != "")]
        if len(crossing):
            where = crossing["source_file"] + ", line " + crossing["line"].astype(str) + ": " + crossing["id"]
            message = (f"{len(crossing)} records are given for several parts; each is left to the first of them. "
                       "Whoever trained on these files was judged on what it was trained on.")  # fmt: skip
            self._findings.append(Finding("given_for_several_parts", "warning", message, len(crossing),
                                          crossing["id"].tolist()[:STORED], where.tolist()[:STORED]))  # fmt: skip
        records = records[~again].reset_index(drop=True)
        twice = records.duplicated(["id", "hash"], keep=False)
        if self.conflicts == "keep" and twice.any():  # one picture under several species, which is wanted here
            named = records["id"] + " (" + records["label"] + ")"
            records = records.assign(id=records["id"].where(~twice, named))
        return records

    # batches

    def dataset(self, indices: np.ndarray, train: bool) -> Dataset[Batch]:
        """Return the dataset of some records."""
        records = self._records()
        y = self.y if self.y is not None else np.full(len(records), IGNORE)
        draws = self.augment.draws if train else 0
        made = PlantsDataset(self.pixels, records["row"].to_numpy(np.int64), y, self.image_size, draws, self.seed)
        return TaughtDataset(made, self._teaching()) if train and self.teachers is not None else made

    def _teaching(self) -> np.ndarray:
        """(N, C) float32: what the teachers said about each training record."""
        if self._taught is None:
            assert self.teachers is not None and self.table is not None
            ids, parts = self._records()["id"].tolist(), self.table["part"].tolist()
            self._taught = combined(self.teachers, ids, parts, self.class_names, self._origins())
        return self._taught

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Augment a training batch where it lies; others pass."""
        if "draws" not in batch:
            return batch
        rest = {name: value for name, value in batch.items() if name != "draws"}
        with torch.no_grad(), torch.autocast(batch["image"].device.type, enabled=False):
            return rest | {"image": augment(batch["image"], batch["draws"], self.augment, self.image_size)}

    def split_page(self, table: pd.DataFrame) -> tuple[str, dict[str, Any]]:
        """Explain what the split lets a perfect model reach, and what ruins it."""
        return explain(self._records(), table, self.seed)

    def write_parts(self, folder: Path, table: pd.DataFrame) -> dict[str, int]:
        """Write the parts as JSON Lines, with attributions."""
        return write_parts(folder, self._records(), table, self.pixels, self.columns)

    def facets(self) -> dict[str, np.ndarray]:
        """Return how rare the species of each record is in training, and its region."""
        return facets(self._records(), self._labels(), self.class_counts("train"))

    def class_levels(self) -> dict[str, list[str]]:
        """Return the genus and family of each species, as far as the records state them."""
        return class_levels(self._records(), self.class_names)

    def pictures(self, indices: np.ndarray) -> np.ndarray:
        """(n, image_size, image_size, 3) uint8 of some records, as judged."""
        return self._views(indices).transpose(0, 2, 3, 1)

    def apply_split(self, table: pd.DataFrame) -> None:
        """Take a split; simple models that were fitted on another one are forgotten."""
        super().apply_split(table)
        self._simple, self._taught = PlantsBaselines(), None

    def baselines(self, part: str) -> dict[str, np.ndarray | None]:
        """Return probabilities (n, num_classes) on a part, by models fitted on the training part alone."""
        if not self.simple_models:
            return {}
        rows = self.indices("train")
        rows = rows[self._labels()[rows] >= 0]
        y = self._labels()[rows]
        return self._simple.predict(self._views(rows), y, self._views(self.indices(part)), self.num_classes)

    def _views(self, indices: np.ndarray) -> np.ndarray:
        """(n, 3, image_size, image_size) uint8 as judged."""
        rows = self._records()["row"].to_numpy(np.int64)[indices]
        return centre(torch.from_numpy(self.pixels[rows]), self.image_size).numpy()

    def describe(self) -> dict[str, Any]:
        """Return plain facts about the data for the report."""
        records = self._records()
        counts = records["label"].value_counts()
        return {
            "source": self.path or self.hub or f"synthetic (generated, seed {self.synthetic_seed})",
            "samples": len(records),
            "groups": int(records["group"].nunique()),
            "species": len(counts),
            "genera": int(records["genus"].nunique()),
            "families": int(records["family"].nunique()),
            "images_per_species": {
                "min": int(counts.min()),
                "median": float(counts.median()),
                "max": int(counts.max()),
            },
            "image_size": self.image_size,
            "stored_size": self.stored_size,
            "framing": self.framing,
            "interpolation": self.interpolation,
            "augment": vars(self.augment),
            "findings": {found.kind: found.count for found in self._findings},
        }


class PlantsDataset(Dataset[Batch]):
    """Makes batches of stored pictures.

    Args:
        pixels: (M, 3, S, S) uint8.
        rows: (N,) row of each record.
        y: (N,) class index of each record.
        size: Side of what is judged.
        draws: Uniform numbers a picture for its augmentation; 0 gives the central part instead.
        seed: Seed of the run.
    """

    def __init__(self, pixels: np.ndarray, rows: np.ndarray, y: np.ndarray, size: int, draws: int, seed: int) -> None:
        self.pixels, self.rows, self.y, self.size, self.draws, self.seed = pixels, rows, y, size, draws, seed

    def __getitems__(self, batch: IndexBatch) -> Batch:
        """Return `image`, `y`, `id`, `weight`, and `draws` for training, of some records."""
        rows = np.array(batch.indices, dtype=np.int64)
        real = np.arange(len(rows)) < batch.real
        image = torch.from_numpy(np.ascontiguousarray(self.pixels[self.rows[rows]]))
        found = {
            "image": image if self.draws else centre(image, self.size).contiguous(),
            "y": torch.from_numpy(np.where(real, self.y[rows], IGNORE)),
            "id": torch.from_numpy(np.where(real, rows, -1)),
            "weight": torch.from_numpy(np.where(real, batch.weight, 0).astype(np.float32)),
        }
        if self.draws:
            found["draws"] = torch.from_numpy(uniforms(self.seed, batch.epoch, rows, self.draws))
        return found
