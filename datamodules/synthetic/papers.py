"""Synthetic paper titles and abstracts: the embedded default data of `papers` (pure: numpy only).

Written by nobody. The shape of the real task is copied (four arXiv categories, one of them rare, cross-lists, papers
that occur twice); the content is planted:

* Each class has terms of its own (`TERMS`), and all share a pool of terms (`SHARED`). A content slot takes a term of
  the paper's own class, or, with probability `overlap`, one that is shared or that belongs to another class.
* Order matters a little: an abstract says twice which term is the aim and which the means. The aim is of the
  paper's class, the means of another one; both kinds of word occur in both classes, so a bag of words learns less from
  these sentences than a reader does.
* Every paper has a primary category and up to two cross-lists, more often those whose terms it borrows. cs.AI is rare
  and borrows the most, so it is rare and ambiguous.
* Some papers occur twice: the title in other case and punctuation, the abstract slightly changed. Some of these copies
  carry a cross-listed category as their label, as a download by category query makes them: planted label conflicts.
* Rows are in the order of their dates; ids are arXiv-like, `2503.00017`. A model name made of syllables occurs in every
  title and most abstracts, each in one paper only: words that no training part can know.
"""

from dataclasses import dataclass

import numpy as np

CLASS_NAMES = ["cs.AI", "cs.CL", "cs.CV", "cs.LG"]
SHARES = {"cs.AI": 0.05, "cs.CL": 0.32, "cs.CV": 0.36, "cs.LG": 0.27}
ELSEWHERE = ["stat.ML", "cs.RO", "cs.IR", "cs.HC", "eess.IV", "cs.MA", "cs.CY"]  # categories that are no class
MINIMUM = 40

TERMS = {
    "cs.AI": (
        "symbolic planning", "knowledge graphs", "constraint solving", "autonomous agents", "causal reasoning",
        "heuristic search", "logic programs", "belief revision", "multi-agent negotiation", "goal recognition",
        "ontology alignment", "commonsense inference", "task decomposition", "answer set programming",
    ),
    "cs.CL": (
        "machine translation", "dialogue systems", "question answering", "text summarization", "speech transcripts",
        "named entities", "sentiment analysis", "language modeling", "instruction tuning", "document retrieval",
        "morphology", "discourse parsing", "low-resource languages", "prompt design",
    ),
    "cs.CV": (
        "image segmentation", "object detection", "depth estimation", "video tracking", "point clouds",
        "scene rendering", "pose estimation", "face recognition", "optical flow", "medical imaging",
        "image synthesis", "visual grounding", "super-resolution", "camera calibration",
    ),
    "cs.LG": (
        "gradient descent", "federated learning", "policy optimization", "graph embeddings", "time series forecasting",
        "bandit algorithms", "kernel methods", "model compression", "out-of-distribution detection",
        "tabular data", "generalization bounds", "contrastive learning", "anomaly detection", "hyperparameter search",
    ),
}  # fmt: skip
SHARED = (
    "large models", "attention layers", "synthetic benchmarks", "human feedback", "multimodal inputs",
    "transfer", "uncertainty estimates", "distillation", "sparse representations", "robustness tests",
    "data augmentation", "long contexts", "reward signals", "pretrained encoders", "latent variables",
    "evaluation protocols", "noisy labels", "efficient inference",
)  # fmt: skip
ADJECTIVES = ("simple", "unified", "scalable", "modular", "lightweight", "principled", "adaptive", "general", "careful")
NOUNS = ("framework", "approach", "method", "pipeline", "benchmark", "study", "algorithm", "perspective")
SYLLABLES = ("ba", "cor", "dex", "fi", "gra", "hel", "ix", "jo", "kal", "lum", "mir", "nov", "or", "pra", "qui", "ros",
             "syn", "tek", "ul", "ver", "wyn", "xa", "yel", "zor")  # fmt: skip

TITLES = (
    "{name}: a {adj} {noun} for {own}",
    "{Adj} {own} with {free}: the {name} {noun}",
    "Rethinking {own}: {name} and the role of {free}",
    "Towards {adj} {own} under {free} with {name}",
    "{name}: {own} meets {free}",
    "How far does {free} carry {own}? Lessons from {name}",
)
# The roles: {own} is always the aim and {other} the means, in either order, with the same words around them.
ROLES = (
    "Our aim is {adj} {own}, and the means to it are {other}.",
    "The means are {adj} {other}, while the aim remains {own}.",
    "Taking {other} as a means, we make {adj} {own} the aim of this work.",
    "With {own} as the aim, {adj} {other} serve as a means only.",
)
SENTENCES = (
    "Recent progress in {free} has changed how {free2} are studied.",
    "Despite much work on {free}, open questions about {free2} remain.",
    "We introduce {name}, a {adj} {noun} that combines {free} and {free2}.",
    "{name} builds on {free} and needs no {free2}.",
    "Existing methods treat {free} and {free2} in isolation, which limits them.",
    "A {adj} analysis shows when {free} helps and when it does not.",
    "Experiments on {k} public benchmarks improve over strong baselines by {p} points.",
    "Compared with any prior {noun}, it is {p} times faster and uses less memory.",
    "Ablations reveal that {free} contributes most, followed by {free2}.",
    "We further report results on {free} under realistic conditions.",
    "Code, data and trained weights will be released to support further research.",
    "We hope that this {noun} encourages new work on {free}.",
    "Our {noun} learns from {free} with little supervision.",
)


@dataclass(frozen=True)
class SyntheticPapers:
    """Papers in the order of their dates.

    Attributes:
        ids: N unique arXiv-like ids.
        titles: N titles.
        abstracts: N abstracts.
        labels: N names out of `CLASS_NAMES`, as a careless download would label them.
        categories: N lists of categories separated by blanks, the primary one first.
        published: N dates `YYYY-MM-DD`, ascending.
        copies_of: N ids of the paper that a row repeats; "" for the first occurrence.
    """

    ids: list[str]
    titles: list[str]
    abstracts: list[str]
    labels: list[str]
    categories: list[str]
    published: list[str]
    copies_of: list[str]


def make_papers(
    samples: int = 1200, seed: int = 0, overlap: float = 0.65, duplicates: float = 0.04, conflicts: float = 0.02
) -> SyntheticPapers:
    """Generate the data set; the same arguments give the same papers.

    Args:
        samples: Number of rows, copies included.
        seed: Seed of everything.
        overlap: Probability that a content slot does not hold a term of the paper's own class; 0 is trivial, 1 leaves
            the sentences about aim and means as the only sign.
        duplicates: Share of the rows that repeat another paper under its own label.
        conflicts: Share of the rows that repeat another paper under one of its cross-listed categories.

    Raises:
        ValueError: For fewer than 40 samples, or shares that are no shares.
    """
    if samples < MINIMUM:
        raise ValueError(f"synthetic_samples={samples} must be at least {MINIMUM}")
    for name, share in (("overlap", overlap), ("duplicates", duplicates), ("conflicts", conflicts)):
        if not 0 <= share <= 1:
            raise ValueError(f"synthetic_{name}={share} must lie between 0 and 1")
    if duplicates + conflicts > 0.5:
        raise ValueError(f"synthetic_duplicates + synthetic_conflicts = {duplicates + conflicts:g} must be at most 0.5")
    rng = np.random.default_rng([seed, 12])
    copies, clashes = round(samples * duplicates), round(samples * conflicts)
    papers = [_paper(label, overlap, rng) for label in _labels(samples - copies - clashes, rng)]
    crossed = [row for row, paper in enumerate(papers) if paper.crosslists]
    originals = [(row, "") for row in range(len(papers))]
    repeated = [(int(row), "copy") for row in rng.choice(len(papers), size=copies)]
    repeated += [(int(row), "conflict") for row in rng.choice(crossed, size=clashes)] if crossed else []
    order = sorted(originals + repeated, key=lambda row: (rng.random(), row[0]))
    return _rows(papers, order, rng)


@dataclass(frozen=True)
class _Paper:
    label: str
    crosslists: list[str]  # those that are classes
    elsewhere: list[str]
    title: str
    sentences: list[str]


def _labels(count: int, rng: np.random.Generator) -> list[str]:
    """Class of each paper in the proportions of `SHARES`, at least five of each, shuffled."""
    counts = {name: max(5, int(share * count)) for name, share in SHARES.items()}
    counts["cs.CV"] += count - sum(counts.values())
    labels = [name for name, number in counts.items() for _ in range(number)]
    return [labels[i] for i in rng.permutation(len(labels))]


def _paper(label: str, overlap: float, rng: np.random.Generator) -> _Paper:
    others = [name for name in CLASS_NAMES if name != label]
    weight = np.array([2.0 if name == "cs.LG" else 0.6 if name == "cs.AI" else 1.0 for name in others])
    borrowed = others[rng.choice(3, p=weight / weight.sum())]  # whose terms are the means and fill foreign slots
    own = min(1.0, overlap * 1.25) if label == "cs.AI" else overlap  # the rare class is the ambiguous one too

    def pick(terms: tuple[str, ...]) -> str:
        return terms[rng.integers(len(terms))]

    def free() -> str:
        if rng.random() >= own:
            return pick(TERMS[label])
        return pick(SHARED) if rng.random() < 0.5 else pick(TERMS[borrowed if rng.random() < 0.7 else pick_class()])

    def pick_class() -> str:
        return CLASS_NAMES[rng.integers(len(CLASS_NAMES))]

    name = "".join(pick(SYLLABLES) for _ in range(3)).capitalize()

    def fill(template: str, sure: float = 1.0) -> str:
        adj = pick(ADJECTIVES)
        text = template.format(
            name=name, adj=adj, Adj=adj.capitalize(), noun=pick(NOUNS),
            own=pick(TERMS[label]) if rng.random() < sure else free(),
            other=pick(TERMS[borrowed]), free=free(), free2=free(), k=rng.integers(2, 9), p=rng.integers(1, 10),
        )  # fmt: skip
        text = text.replace("a adaptive", "an adaptive").replace("A adaptive", "An adaptive")
        return text[0].upper() + text[1:]

    title = fill(pick(TITLES), sure=0.6)  # a title is no sure sign either
    count = int(rng.integers(4, 11))
    body = [fill(SENTENCES[i]) for i in rng.choice(len(SENTENCES), size=count, replace=False)]
    for place, role in zip((1, count // 2 + 1), rng.choice(len(ROLES), size=2, replace=False), strict=True):
        body.insert(place, fill(ROLES[role]))
    listed = [borrowed] if rng.random() < 0.55 else []
    listed += [other for other in others if other != borrowed and rng.random() < 0.08]
    elsewhere = [pick(tuple(ELSEWHERE))] if rng.random() < 0.3 else []
    return _Paper(label, listed, elsewhere, title, body)


def _rows(papers: list[_Paper], order: list[tuple[int, str]], rng: np.random.Generator) -> SyntheticPapers:
    """Give the rows ids and dates in their order, and change the copies a little."""
    made = SyntheticPapers([], [], [], [], [], [], [])
    first: dict[int, str] = {}
    for place, (row, kind) in enumerate(order):
        paper = papers[row]
        month = place * 16 // len(order)  # sixteen months from 2025-03 on
        year, month_of_year = 25 + (month + 2) // 12, (month + 2) % 12 + 1
        made.ids.append(f"{year:02d}{month_of_year:02d}.{place:05d}")
        made.published.append(f"20{year:02d}-{month_of_year:02d}-{1 + place * 16 % len(order) * 28 // len(order):02d}")
        made.labels.append(paper.crosslists[rng.integers(len(paper.crosslists))] if kind == "conflict" else paper.label)
        made.categories.append(" ".join([paper.label, *paper.crosslists, *paper.elsewhere]))
        made.copies_of.append(first.get(row, ""))
        again = row in first
        made.titles.append(_retype(paper.title, rng) if again else paper.title)
        made.abstracts.append(" ".join(_revise(paper.sentences, rng) if again else paper.sentences))
        first.setdefault(row, made.ids[-1])
    return made


def _retype(title: str, rng: np.random.Generator) -> str:
    """The same title as another source types it."""
    changes = (title.upper(), title.title(), title.replace(":", " -") + ".", title.replace("-", " ").lower())
    return changes[rng.integers(len(changes))]


def _revise(sentences: list[str], rng: np.random.Generator) -> list[str]:
    """The abstract of another version: a further sentence, and sometimes one that is gone."""
    revised = list(sentences)
    if len(revised) > 6 and rng.random() < 0.5:
        revised.pop(int(rng.integers(2, len(revised) - 1)))
    revised.insert(int(rng.integers(2, len(revised) + 1)), "This version corrects a few details.")
    return revised
