"""What can be said about a window without a network: tables that see no sensor, and trees on plain statistics.

Fitted on training windows alone. A network that does not beat them has learnt that all recordings of an operation run
the same program at the same speed, or reads the machine's position, and not what the sensors say.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modules import gcode_tokens

END = -1  # the token that closes a line
TREES = 200
CHUNK = 512  # windows that are described at a time
Context = Callable[[int, tuple[int, ...]], Hashable]  # record, tokens before -> what a table looks up


@dataclass(frozen=True)
class Task:
    """The windows of all parts as the simple models see them.

    Attributes:
        lines: (N) target lines. tokens: (N) their tokens as whole numbers, without the end; equal ones are equal.
        ids: (N) their ids in the hybrid vocabulary.
        operation: (N,) index of the operation, < 0 = unknown. num_operations: How many there are.
        place: (N,) number of the window in its recording.
        statistics: Features (N, D) by the name of the columns that they describe.
    """

    lines: Sequence[str]
    tokens: Sequence[tuple[int, ...]]
    ids: Sequence[tuple[int, ...]]
    operation: np.ndarray
    num_operations: int
    place: np.ndarray
    statistics: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a simple model said about some records; ``None`` = it has nothing to say about that.

    Attributes:
        forced: (n) for each token of the line and its end, whether it was said with the true ones before it.
        forced_by_id: (n) the same for the ids of the hybrid vocabulary, in which unknown tokens are all the same.
        free: (n) lines written without help. prob: (n, C) probabilities of the operations.
    """

    forced: Sequence[tuple[bool, ...]] | None = None
    forced_by_id: Sequence[tuple[bool, ...]] | None = None
    free: Sequence[str] | None = None
    prob: np.ndarray | None = None


def spelt(lines: Sequence[str]) -> list[tuple[int, ...]]:
    """Return lines as whole numbers, one a token, equal for equal tokens of the same letter."""
    index: dict[object, int] = {}
    return [tuple(index.setdefault(token, len(index)) for token in gcode_tokens.tokens(line)) for line in lines]


def token_tables(task: Task, train: np.ndarray, asked: np.ndarray) -> dict[str, Answer]:
    """Ask tables that see no sensor; where a table has not met its case, the next coarser one answers.

    Args:
        task: The windows.
        train: Records that the tables are counted on.
        asked: Records that they answer for.

    Returns:
        Most frequent token, position only, prefix, operation + prefix, operation + prefix + window number. The last
        two are given the true operation, and the last one the time since the recording began.
    """
    operation, place = task.operation.tolist(), task.place.tolist()
    contexts: dict[str, Context] = {
        "most frequent token": lambda record, before: (),
        "position only": lambda record, before: len(before),
        "prefix": lambda record, before: before,
        "operation + prefix": lambda record, before: (operation[record], before),
        "operation + prefix + window number": lambda record, before: (operation[record], place[record], before),
    }
    line_of = {task.tokens[record]: task.lines[record] for record in train.tolist()}
    longest = max((len(tokens) for tokens in line_of), default=0)
    answers: dict[str, Answer] = {}
    by_token, by_id = _Tables(task.tokens, train), _Tables(task.ids, train)
    for name, context in contexts.items():
        by_token.add(context)
        by_id.add(context)
        free = None
        if name not in ("most frequent token", "position only"):  # these two never end a line, or write no real one
            free = [line_of[by_token.written(record, longest)] for record in asked.tolist()]
        forced, same = ([table.forced(record) for record in asked.tolist()] for table in (by_token, by_id))
        answers[f"table: {name}"] = Answer(forced=forced, forced_by_id=same, free=free)
    return answers


class _Tables:
    """The most frequent next token of each context, the finest context first."""

    def __init__(self, tokens: Sequence[tuple[int, ...]], train: np.ndarray) -> None:
        self.tokens, self.train = tokens, train.tolist()
        self.tables: list[tuple[Context, dict[Hashable, int]]] = []

    def add(self, context: Context) -> None:
        """Count a finer context on the training records."""
        counts: dict[Hashable, Counter[int]] = {}
        for record in self.train:
            tokens = (*self.tokens[record], END)
            for place, token in enumerate(tokens):
                counts.setdefault(context(record, tokens[:place]), Counter())[token] += 1
        # of equally frequent tokens the one met first in the data, which is the same in every run
        self.tables.insert(0, (context, {key: found.most_common(1)[0][0] for key, found in counts.items()}))

    def said(self, record: int, before: tuple[int, ...]) -> int:
        """Return the next token by the finest table that knows the case."""
        for context, table in self.tables:
            key = context(record, before)
            if key in table:
                return table[key]
        return END

    def forced(self, record: int) -> tuple[bool, ...]:
        """Tell which tokens of the record's line, and its end, are said with the true ones before them."""
        tokens = (*self.tokens[record], END)
        return tuple(self.said(record, tokens[:place]) == token for place, token in enumerate(tokens))

    def written(self, record: int, longest: int) -> tuple[int, ...]:
        """Return the tokens that are written without help."""
        found: tuple[int, ...] = ()
        while len(found) < longest and (token := self.said(record, found)) != END:
            found += (token,)
        return found


def window_statistics(values: np.ndarray) -> np.ndarray:
    """Return mean, standard deviation, first and last value of each column of windows (n, T, C) -> (n, 4, C)."""
    return np.stack([values.mean(1), values.std(1), values[:, 0], values[:, -1]], axis=1)


def tree_answers(
    task: Task, train: np.ndarray, asked: np.ndarray, trees: int = TREES, seed: int = 0, operations_only: bool = False
) -> dict[str, Answer]:
    """Ask extremely randomised trees on each set of statistics, for the operation and for the whole line.

    Args:
        task: The windows.
        train: Records that the trees are grown on.
        asked: Records that they answer for.
        trees: Trees of a forest.
        seed: Seed of the forests.
        operations_only: Leave out the line.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    lines, code = np.unique(np.array([task.lines[record] for record in train.tolist()]), return_inverse=True)
    answers = {}
    for name, features in task.statistics.items():
        x, new = features[train], features[asked]
        known = task.operation[train] >= 0
        model = ExtraTreesClassifier(trees, random_state=seed).fit(x[known], task.operation[train][known])
        prob = np.zeros((len(asked), task.num_operations))
        prob[:, model.classes_] = model.predict_proba(new)
        free = None
        if not operations_only:
            model = ExtraTreesClassifier(trees, random_state=seed).fit(x, code.reshape(-1))
            free = [str(line) for line in lines[model.predict(new)]]
        answers[f"trees: {name}"] = Answer(free=free, prob=prob)
    return answers


def task_of(data: Any) -> Task:  # noqa: ANN401  # a GcodeData, which imports this file
    """Return the windows of a datamodule as the simple models see them; its split has been applied."""
    groups = data.channel_groups()
    position = np.array(groups.get("machine_position", []), dtype=int)
    rest = np.array([i for name, columns in groups.items() if name != "machine_position" for i in columns], dtype=int)
    starts = range(0, len(data.lines), CHUNK)
    chunks = [np.arange(start, min(start + CHUNK, len(data.lines))) for start in starts]
    plain = np.concatenate([window_statistics(data.window_values(rows)[0]) for rows in chunks])
    boards = data.boards()[1]
    sets: dict[str, np.ndarray] = {"all columns": plain.reshape(len(plain), -1)}
    if len(position) and len(rest):
        sets["without machine position"] = plain[:, :, rest].reshape(len(plain), -1)
        sets["machine position only"] = plain[:, :, position].reshape(len(plain), -1)
    sets["board pattern"] = boards.astype(np.float32)
    vocabulary = data.vocabulary
    return Task(
        lines=data.lines,
        tokens=spelt(data.lines),
        ids=[tuple(vocabulary.encode(line)) for line in data.lines],
        operation=data.y,
        num_operations=data.num_classes,
        place=np.asarray(data.rows) // data.stride,
        statistics=sets,
    )


def line_answers(task: Task, train: np.ndarray, asked: np.ndarray, trees: int = TREES) -> dict[str, Answer]:
    """Ask all simple models about lines; windows without a line teach nothing."""
    train = train[np.array([task.lines[record] != "" for record in train.tolist()], dtype=bool)]
    return token_tables(task, train, asked) | tree_answers(task, train, asked, trees)
