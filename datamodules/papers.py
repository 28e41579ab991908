"""Papers, title and abstract, one category each: a file, a hub data set, or the embedded synthetic data."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pandas as pd
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import Dataset

from datamodules.audit import Finding
from datamodules.base import IGNORE, SplitDataModule
from datamodules.baselines import fit_majority
from datamodules.curriculum import Curriculum, length_and_terms
from datamodules.encoder_states import EncoderStates
from datamodules.errors import DataError
from datamodules.kept import Kept, digest
from datamodules.papers_dataset import AugmentedTokens, PapersDataset
from datamodules.papers_encoded import Encoded
from datamodules.papers_file import Columns, Source, file_digest, read_hub, read_papers
from datamodules.papers_fitted import Fitted, joined, multi_hot
from datamodules.papers_records import (
    Facts,
    Policy,
    TimeSplit,
    content_hash,
    joined_groups,
    make_predict_records,
    make_records,
    parse_merges,
)
from datamodules.papers_text import SMALLEST
from datamodules.samplers import Batch
from datamodules.splits import split_hash
from datamodules.synthetic.papers import make_papers
from datamodules.text_augmentation import TextAugmentation
from datamodules.text_baselines import fit_tfidf, fit_vectors

SIGNATURE_WIDTH = 256
_RECORDS: Kept[tuple[pd.DataFrame, list[str], Facts]] = Kept()
_SIGNATURES: Kept[np.ndarray] = Kept()


class PapersData(SplitDataModule):
    """Titles and abstracts, one label each.

    Papers with the same id or the same normalised title are one group. The tokenizer (when it is not an encoder's), the
    keywords and all numbers are fitted on the training part, after the split.

    Batch: `id`, `y`, `weight`, and one form of the text (T is the longest of the batch, masks are True at real tokens):

    - `title_ids` (B, Tt) int64, `title_mask`, `abstract_ids` (B, Ta), `abstract_mask`, each with its special tokens;
    - with `single`: `text_ids`, `text_mask`, title and abstract as a pair;
    - with `states`: `title_states` (B, Tt, H) float32, `title_mask`, `abstract_states`, `abstract_mask`;
    - with `states.pooled`: `vector` (B, 2H) float32, the mean states of the title and of the abstract.

    With `keywords` K: `keyword_ids` (B, K) int64, `keyword_weights`, `keyword_mask`, `keyword_links` (B, K, K). With
    `terms`: `term_ids` (B, K) int64, `term_weights`, `term_mask`, K the most terms of a paper. With `auxiliary`:
    `y_crosslist` (B, M), `y_learning` (B,), `y_length` (B,). With `labels: multi`: `y_labels` (B, C).

    Args:
        path: A file (see `papers_file`); None is the embedded synthetic data, never a stand-in for a file that cannot
            be read.
        hub: A data set of the hub (or a folder of one) in place of a file.
        predict_path: A file of papers to predict; it needs no labels.
        columns: Names of the columns.
        classes: Names and order of the classes; a row of another label is refused. None takes those of the data.
        merge: Labels to merge, as `old=new` words; done before anything else, on the categories too.
        conflicts: What happens to a paper under several labels: it gets its primary category (the first of
            all_categories, else its first row's label), it is dropped, or the data are refused.
        labels: One class a paper, or all classes among its categories as targets beside the primary one.
        time_split: Parts by date; the split callback keeps them as given.
        tokenizer: Folder or hub id of a tokenizer; None trains one on the training part (with `states`: the encoder's).
        vocab_size_wanted: Vocabulary of a trained tokenizer.
        title_len: Most tokens of a title.
        abstract_len: Most tokens of an abstract.
        single: Title and abstract as one text of at most `title_len` + `abstract_len` tokens.
        states: A frozen encoder whose cached states take the place of tokens.
        keywords: Keywords of a paper; 0 is off.
        keyword_vocab: Most known keywords.
        terms: Most words and pairs of words for the wide part of the network; 0 is off.
        auxiliary: Add targets of the auxiliary tasks.
        augmentations: Random changes of training texts, keyed by (seed, epoch, record).
        synthetic_samples: Number of synthetic papers (without `path` and `hub`).
        synthetic_seed: Seed of the synthetic data.
        synthetic_overlap: Share of foreign and shared terms in the synthetic texts.
        synthetic_duplicates: Share of synthetic rows that repeat a paper.
        synthetic_conflicts: Share of synthetic rows that repeat a paper under another label.
        batch_size: Global batch size, over all processes.
        num_workers: Loader processes.
        bucket: Batches of similar length.
        balanced: Draw the training samples so that each class is equally likely.
        sample_weights: CSV (id, weight) of how much each training sample counts.
        predict_part: Predict this part of the run's own split in place of new papers.
        curriculum: Easy training samples first.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        hub: str | None = None,
        predict_path: str | None = None,
        columns: Columns | None = None,
        classes: list[str] | None = None,
        merge: list[str] | None = None,
        conflicts: Policy = "primary",
        labels: Literal["single", "multi"] = "single",
        time_split: TimeSplit | None = None,
        tokenizer: str | None = None,
        vocab_size_wanted: int = 4000,
        title_len: int = 32,
        abstract_len: int = 128,
        single: bool = False,
        states: EncoderStates | None = None,
        keywords: int = 0,
        keyword_vocab: int = 2000,
        terms: int = 0,
        auxiliary: bool = False,
        augmentations: list[Callable] | None = None,
        synthetic_samples: int = 1200,
        synthetic_seed: int = 0,
        synthetic_overlap: float = 0.65,
        synthetic_duplicates: float = 0.04,
        synthetic_conflicts: float = 0.02,
        batch_size: int = 32,
        num_workers: int = 0,
        bucket: bool = True,
        balanced: bool = False,
        sample_weights: str | None = None,
        predict_part: Literal["train", "val", "calib"] | None = None,
        curriculum: Curriculum | None = None,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            bucket=bucket,
            balanced=balanced,
            sample_weights=sample_weights,
            predict_part=predict_part,
            curriculum=curriculum,
        )
        self.path, self.hub, self.predict_path, self.columns = path, hub, predict_path, columns or Columns()
        self.classes, self.merge, self.conflicts, self.labels = classes, list(merge or []), conflicts, labels
        self.time_split, self.single, self.states = time_split, single, states
        self.tokenizer = tokenizer if tokenizer is not None or states is None else states.source
        self.vocab_size_wanted, self.title_len, self.abstract_len = vocab_size_wanted, title_len, abstract_len
        self.keywords, self.keyword_vocab, self.auxiliary = keywords, keyword_vocab, auxiliary
        self.terms = terms
        self.augmentations: list[TextAugmentation] = list(augmentations or [])
        self.synthetic: dict[str, Any] = {
            "samples": synthetic_samples,
            "seed": synthetic_seed,
            "overlap": synthetic_overlap,
            "duplicates": synthetic_duplicates,
            "conflicts": synthetic_conflicts,
        }
        # Sizes of the network, known after the split; before predicting, set to what the trained network takes.
        self.vocab_size: int | None = 0 if states is not None else None
        self.num_keywords: int | None = None if keywords else 0
        self.num_terms: int | None = None if terms else 0
        self.num_crosslists: int | None = None if auxiliary else 0
        self.input_width: int | None = None if states is not None else 0
        self.source_name, self.facts = "", Facts()
        self.fitted: Fitted | None = None
        self._fitted_on = ""
        self._encoded: Encoded | None = None
        self._word_tables: dict[str, np.ndarray] = {}
        self._baselines: dict[str, Any] = {}
        self._check()

    def _check(self) -> None:
        """Refuse settings that contradict each other or mean nothing."""
        choices = {"conflicts": ("primary", "drop", "refuse"), "labels": ("single", "multi")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}")
        least = {"title_len": 3, "abstract_len": 3, "keywords": 0, "keyword_vocab": 1, "terms": 0}
        least["vocab_size_wanted"] = SMALLEST
        for name, limit in least.items():
            if getattr(self, name) < limit:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {limit}")
        if self.path is not None and self.hub is not None:
            raise ValueError("path and hub name two sources of papers: give one of them")
        if self.classes is not None and len(set(self.classes)) < max(2, len(self.classes)):
            raise ValueError(f"classes={self.classes} must be at least two different names")
        parse_merges(self.merge)
        if self.states is not None and (self.single or self.augmentations):
            other = "single" if self.single else "augmentations"
            raise ValueError(f"states are kept for titles and abstracts as they are: leave {other} out, or states")

    # reading

    def read_records(self) -> pd.DataFrame:
        """Read and check the source, or generate the synthetic data."""
        settings: dict[str, Any] = {
            "classes": self.classes,
            "merge": self.merge,
            "policy": self.conflicts,
            "time_split": self.time_split,
            "multi": self.labels == "multi",
        }
        if self.path is not None:
            path, columns = self.path, self.columns
            key = (path, file_digest(path), columns, repr(settings))
            made = _RECORDS.get(key, lambda: make_records(read_papers(path, columns), **settings))
            self.source_name = path
        else:
            source = self._synthetic() if self.hub is None else read_hub(self.hub, self.columns)
            made, self.source_name = make_records(source, **settings), source.name
        records, classes, self.facts = made
        self.source_classes, self._encoded, self._fitted_on = list(classes), None, ""
        for line in self.facts.lines(self.conflicts):
            rank_zero_info(f"papers: {line}")
        return records.copy()

    def read_predict_records(self) -> pd.DataFrame:
        """Read the file to predict; labels in it are left alone."""
        if self.predict_path is None:
            return super().read_predict_records()
        records = make_predict_records(read_papers(self.predict_path, self.columns, labels=False))
        self.table, self.y = None, None  # a split of the training data says nothing about these records
        self.source_name, self._encoded, self._word_tables = self.predict_path, None, {}
        return records

    def read_unlabelled(self, path: str) -> pd.DataFrame:
        """Read papers without labels; one that is among the records gets their group."""
        rows = make_predict_records(read_papers(path, self.columns, labels=False))
        rows["group"] = joined_groups(rows, self._records())
        return rows

    def content_hashes(self, rows: pd.DataFrame) -> list[str]:
        """Return the content hash of each row, of its normalised title and abstract."""
        return [content_hash(title, abstract) for title, abstract in zip(rows["title"], rows["abstract"], strict=True)]

    def _synthetic(self) -> Source:
        made = make_papers(**self.synthetic)
        rows = {"id": made.ids, "title": made.titles, "abstract": made.abstracts, "category": made.labels,
                "all_categories": made.categories, "published": made.published}  # fmt: skip
        frame = pd.DataFrame(rows, dtype=str).assign(given="", line=range(1, len(made.ids) + 1))
        name = f"synthetic (generated, seed {self.synthetic['seed']})"
        return Source(name, frame, frozenset({"category", "all_categories", "published"}), "row")

    # fitting, on the training part alone

    def apply_split(self, table: pd.DataFrame) -> None:
        """Take a split, and fit what is fitted on its training part; the same split is fitted once."""
        super().apply_split(table)
        if self.fitted is None or self._fitted_on != split_hash(table):
            self._take(
                Fitted.fit(
                    self._records().iloc[self.indices("train")],
                    source=self.tokenizer,
                    vocab_size=self.vocab_size_wanted,
                    keywords=self.keywords,
                    keyword_vocab=self.keyword_vocab,
                    terms=self.terms,
                    auxiliary=self.auxiliary,
                )
            )
            self._fitted_on = split_hash(table)
        self._baselines = {}

    def rows_added(self, rows: pd.DataFrame | None) -> None:
        """Take the vectors of added rows that have one; what has text is tokenised when it is asked for."""
        self._word_tables, self._baselines = {}, {}
        if rows is None:
            if self._encoded is not None:
                self._encoded.forget(len(self._records()))
        elif "vector" in rows.columns:
            if self.keywords or self.terms or self.auxiliary:
                raise DataError("added rows that are vectors have no text for keywords, terms or auxiliary tasks: "
                                "leave these out, or the over-sampling")  # fmt: skip
            self._encoder().add_vectors(self._records(), np.stack([np.asarray(v) for v in rows["vector"]]))

    def state_dict(self) -> dict[str, Any]:
        """Return what was fitted, for the checkpoint."""
        return self.fitted.state_dict() if self.fitted is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what the training of the checkpoint fitted, whatever was fitted here."""
        if state_dict:
            self._take(Fitted.from_state(state_dict))

    def _take(self, fitted: Fitted) -> None:
        if self.fitted is None or self.fitted.state_dict() != fitted.state_dict():
            self.fitted, self._encoded, self._word_tables = fitted, None, {}
        self.vocab_size = 0 if self.states is not None else fitted.tokenizer.vocab_size
        self.num_keywords = len(fitted.keywords) if fitted.keywords is not None else 0
        self.num_terms = len(fitted.terms) if fitted.terms is not None else 0
        self.num_crosslists = len(fitted.crosslists)
        if self.states is not None:
            self.input_width = self.states.width * (2 if self.states.as_vectors else 1)

    # batches

    def dataset(self, indices: np.ndarray, train: bool) -> Dataset[Batch]:
        """Return the dataset of all records; which of them make a batch is the sampler's choice."""
        records, fitted = self._records(), self._fitted()
        inputs = self._encoder().inputs(records) if not (train and self.augmentations) else AugmentedTokens(
            records["title"].tolist(), records["abstract"].tolist(), fitted.tokenizer, self.limits, self.augmentations,
            self.seed,
        )  # fmt: skip
        tables = dict(self._words())
        y = self.y if self.y is not None else np.full(len(records), IGNORE)
        if self.y is not None and self.auxiliary:
            tables = tables | fitted.auxiliary_tables(records)
        if self.y is not None and self.labels == "multi":
            tables = tables | {"y_labels": self._all_labels()}
        return PapersDataset(inputs, y, tables)

    @property
    def limits(self) -> dict[str, int]:
        """Most tokens by field."""
        if self.single:
            return {"text": self.title_len + self.abstract_len}
        return {"title": self.title_len, "abstract": self.abstract_len}

    def lengths(self) -> np.ndarray | None:
        """(N,) tokens of each record, both fields together; None for vectors, which have no length."""
        if self.states is not None and self.states.as_vectors:
            return None
        return np.sum([tokens.lengths for tokens in self._encoder().tokens(self._records()).values()], axis=0)

    def vectors(self, indices: np.ndarray) -> np.ndarray:
        """Return (n, 2H) float32 mean states of some records.

        Raises:
            DataError: The network takes no vectors.
        """
        if self.states is None or not self.states.as_vectors:
            return super().vectors(indices)
        return self._encoder().vectors(self._records())[indices]

    def explain_words(self, index: int) -> dict[str, list[str]]:
        """Return the token strings of a record by field, one for each place of its row in a batch."""
        tokens, fitted = self._encoder().tokens(self._records()), self._fitted()
        return {name: fitted.tokenizer.words(found.text(index).tolist()) for name, found in tokens.items()}

    def keyword_words(self) -> list[str]:
        """Return the words of the keyword ids."""
        keywords = self._fitted().keywords
        return [] if keywords is None else list(keywords.words)

    def difficulty(self) -> np.ndarray:
        """Return how hard each record is: by words, by words and technical terms, or by an earlier prediction."""
        assert self.curriculum is not None
        texts = joined(self._records())
        if self.curriculum.difficulty == "length":  # of the whole text, of which the network may see less
            return np.array([len(text.split()) for text in texts], dtype=float)
        if self.curriculum.difficulty == "length_and_terms":
            return length_and_terms(texts, self._original_train())
        return super().difficulty()

    # judging

    def signatures(self) -> np.ndarray:
        """(N, 256) float32: hashed counts of the words of each paper, of length 1."""
        from sklearn.feature_extraction.text import HashingVectorizer

        texts = joined(self._records())
        words = HashingVectorizer(n_features=SIGNATURE_WIDTH, stop_words="english", alternate_sign=True)
        return _SIGNATURES.get(digest(texts), lambda: words.transform(texts).toarray().astype(np.float32))

    def findings(self) -> list[Finding]:
        """What was found while reading, for the audit."""
        return self.facts.findings(self.conflicts)

    def baselines(self, part: str) -> dict[str, np.ndarray | None]:
        """Return probabilities (n, num_classes) on a part, by models fitted on the training papers as they are."""
        texts, rows = joined(self._records()), self.indices(part)
        vectors = self._encoder().vectors(self._records()) if self.states is not None else np.empty((len(texts), 0))
        if not self._baselines:
            train = self._original_train()
            train = train[self._labels()[train] >= 0]
            y, known = self._labels()[train], [texts[i] for i in train]
            self._baselines["majority"] = fit_majority(y, self.num_classes)
            self._baselines["tfidf"] = fit_tfidf(known, y, self.num_classes)
            if self.states is not None:
                self._baselines["frozen_encoder"] = fit_vectors(vectors[train], y, self.num_classes)
        chosen = [texts[i] for i in rows]
        return {name: model(vectors[rows] if name == "frozen_encoder" else chosen)
                for name, model in self._baselines.items()}  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Return plain facts about the data for the report."""
        facts: dict[str, Any] = {
            "source": self.source_name,
            "samples": len(self._records()),
            "groups": int(self._records()["group"].nunique()),
            **self.facts.counts(self.conflicts),
            "labels": self.labels,
            "form": "tokens" if self.states is None else "vectors" if self.states.as_vectors else "states",
            "augmentations": [type(f).__name__ for f in self.augmentations],
        }
        if self.fitted is None:
            return facts
        facts |= {"tokenizer": self.fitted.tokenizer.source, "vocab_size": self.fitted.tokenizer.vocab_size}
        facts |= {"num_keywords": self.num_keywords, "crosslists": list(self.fitted.crosslists)}
        if self.states is None or not self.states.as_vectors:
            for name, tokens in self._encoder().tokens(self._records()).items():
                places = {"median": 0.5, "95 %": 0.95, "max": 1.0}
                facts[f"{name}_tokens"] = {key: float(np.quantile(tokens.lengths, q)) for key, q in places.items()}
                facts[f"{name}_limit"] = self.limits[name]
                facts[f"{name}_truncated"] = float(tokens.truncated.mean())
        return facts

    def _original_train(self) -> np.ndarray:
        """Training rows that were read, and not added."""
        train = self.indices("train")
        return train if self.originals is None else train[train < self.originals]

    def _all_labels(self) -> np.ndarray:
        """(N, C) float32: all classes of each paper; an added row has the classes of its label."""
        records = self._records()
        labels = records["labels"].where(records["labels"] != "", records["label"])
        return multi_hot(labels, self.class_names)

    def _words(self) -> dict[str, np.ndarray]:
        """Keywords and terms of all records, where they are on."""
        fitted, records = self._fitted(), self._records()
        if not self._word_tables and fitted.keywords is not None:
            self._word_tables |= fitted.keywords.tables(records["title"].tolist(), records["abstract"].tolist())
        if "term_ids" not in self._word_tables and fitted.terms is not None:
            self._word_tables |= fitted.terms.tables(joined(records))
        return self._word_tables

    def _encoder(self) -> Encoded:
        if self._encoded is None:
            self._encoded = Encoded(self._fitted().tokenizer, self.limits, self.states)
        return self._encoded

    def _fitted(self) -> Fitted:
        if self.fitted is None:
            raise DataError("nothing was fitted yet: the split has to run first, or a checkpoint has to be given")
        return self.fitted
