"""The verb `compress`: int8, pruning and a distilled student beside the model that they stand for."""

import copy
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from callbacks.checkpoint import AtomicCheckpointIO, read_checkpoint
from callbacks.report_files import write_json, write_text
from datamodules.errors import DataError
from lightning_project.exits import UsageError
from lightning_project.writer import Writer
from modules.compression import apply_masks, magnitude_masks, sizes, to_int8, zero_share
from modules.decoding import WindowReader
from modules.perplexity import measured, resampled

Method = Literal["int8", "prune", "prune_int8"]
SMALLER, WORD = 0.9, "word_perplexity"
Masks = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Candidate:
    """A model beside the one that it stands for.

    Attributes:
        name: What was done.
        sums: Sums by document of the validation part, see :mod:`modules.perplexity`.
        size: Bytes of the weights as a file.
        packed: Bytes of that file, packed.
        zeros: Share of zeros among the weights that can be pruned; NaN where they are no plain numbers.
        net: The network. window: Tokens that it sees at once.
        control: Stands there to compare with; it is never recommended.
    """

    name: str
    sums: dict[str, np.ndarray]
    size: int
    packed: int
    zeros: float
    net: Any
    window: int
    control: bool = False


def compress(
    ckpt_path: str = "best",
    name: str | None = None,
    runs: str = "runs",
    methods: list[Method] | None = None,
    student: str | None = None,
    sparsity: float = 0.5,
    steps: int = 200,
    lr: float = 3e-4,
    worse: float = 0.01,
    seed: int = 0,
) -> None:
    """Make a language model smaller, and say what each way costs and saves; on the CPU, on the validation part.

    A way is recommended when its perplexity is surely (95 %) no worse than by the share `worse`, and its file or its
    time per token is at most 0.9 of the model's.

    Args:
        ckpt_path: best, last, a run folder, or a checkpoint in one.
        name: Name of the run; the newest where nothing is named.
        runs: Folder of all runs.
        methods: int8, prune, prune_int8 (int8 after pruning); the first two by default.
        student: Run folder of a distilled student, judged beside.
        sparsity: Share of the weights of linear layers and LSTMs that pruning takes away.
        steps: Training steps after pruning.
        lr: Their learning rate.
        worse: Share by which the perplexity may grow.
        seed: Seed of the training steps.

    Raises:
        UsageError: A value without a meaning.
    """
    if not 0 < sparsity < 1 or steps < 0 or not lr > 0 or worse < 0:
        raise UsageError("compress needs 0 < sparsity < 1, steps >= 0, lr > 0 and worse >= 0")
    writer = Writer.of_run(ckpt_path, name, runs, "cpu")
    data, chosen = writer.data(), methods or ["int8", "prune"]
    found = [_judged("as trained", writer, writer.net, data, control=True)]
    if "int8" in chosen:
        found.append(_judged("int8", writer, to_int8(writer.net), data))
    if {"prune", "prune_int8"} & set(chosen):
        if steps:  # what the further steps alone are worth
            whole = copy.deepcopy(writer.net)
            train_on(writer, whole, data, {}, steps, lr, seed)
            found.append(_judged("trained on, whole", writer, whole, data, control=True))
        pruned = copy.deepcopy(writer.net)
        train_on(writer, pruned, data, magnitude_masks(pruned, sparsity), steps, lr, seed)
        if "prune" in chosen:
            found.append(_judged(f"pruned {sparsity:.0%}", writer, pruned, data))
            _keep(writer, pruned)
        if "prune_int8" in chosen:
            found.append(_judged(f"pruned {sparsity:.0%}, int8", writer, to_int8(pruned), data))
    if student is not None:
        found.append(_student(student, writer))
    seconds = seconds_per_token([(one.net, one.window) for one in found])
    rows = [row_of(one, found[0], own, seconds[0]) for one, own in zip(found, seconds, strict=True)]
    recommended = [not one.control and wins(row, worse) for one, row in zip(found, rows, strict=True)]
    table = pd.DataFrame(rows).assign(recommended=recommended)
    page = _page(table, writer, worse, steps)
    print(page)
    folder = writer.folder / "compress"
    written = [
        write_json(folder / "compress.json", {"part": "val", "rows": table.to_dict("records")}),
        write_text(folder / "COMPRESS.md", page),
    ]
    print("written:\n" + "\n".join(f"  {path}" for path in written))


def train_on(writer: Writer, net: Any, data: Any, masks: Masks, steps: int, lr: float, seed: int) -> None:  # noqa: ANN401  # a language model and its data
    """Take the weights away that do not stay, in place, and train the others on for some steps."""
    apply_masks(net, masks)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), lr, weight_decay=0.0)
    net.train()
    done = 0
    with tqdm(total=steps, desc="trained on", unit="step", disable=None) as bar:
        while done < steps:
            state = None  # streams begin anew with the epoch
            for batch in data.train_dataloader():
                state = net.new_state(*batch["tokens"].shape) if state is None else state
                out = net(**writer.model.net_inputs(batch), state=state, targets=batch["y"])
                state = out.get("state")
                optimizer.zero_grad()
                (out["nll"].sum(1) * batch["weight"]).sum().backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
                apply_masks(net, masks)
                done += 1
                bar.update()
                if done == steps:
                    break
    net.eval()


def _judged(name: str, writer: Writer, net: Any, data: Any, control: bool = False) -> Candidate:  # noqa: ANN401
    """Score the validation part with a network in place of the run's own."""
    model, counts = writer.model, data.counts("val")
    place = {int(document): i for i, document in enumerate(counts["document"])}
    nll = np.zeros(len(counts))
    own, model.net = model.net, net
    try:
        model.on_validation_epoch_start()  # no memory of what was scored before
        with torch.inference_mode():
            for batch in tqdm(data.part_dataloader("val"), desc=name, unit="batch", disable=None):
                logits = model.judge(batch, extra=True)["logits"]  # a fused loss knows no int8 weights
                y, document = batch["y"], batch["y_document"]
                lost = torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1).float(), y.flatten(), ignore_index=-1, reduction="none"
                )
                rows = [place[int(one)] for one in document.flatten()[y.flatten() >= 0]]
                np.add.at(nll, rows, lost[y.flatten() >= 0].double().numpy())
    finally:
        model.net = own
    units = {unit: counts[f"n_{unit}"].to_numpy(float) for unit in ("tokens", "words", "bytes")}
    return Candidate(name, {"nll": nll, **units}, *sizes(net), zero_share(net), net, writer.window, control)


def _student(path: str, teacher: Writer) -> Candidate:
    writer = Writer.of_run(path, device="cpu")
    if writer.tokenizer.fingerprint != teacher.tokenizer.fingerprint:
        raise DataError(f"{path} and {teacher.folder} have different vocabularies: train the student on the same text")
    return _judged(f"student {writer.folder.name}", writer, writer.net, writer.data())


def wins(row: dict[str, Any], worse: float) -> bool:
    """Tell whether a model is surely no worse than allowed, and smaller or faster."""
    return bool(row["ratio_high"] <= 1 + worse and min(row["size"], row["time"]) <= SMALLER)


def row_of(one: Candidate, first: Candidate, seconds: float, first_seconds: float) -> dict[str, Any]:
    """Return the figures of a model beside those of the first.

    Args:
        one: A model.
        first: The one that it is compared with.
        seconds: Time of a token.
        first_seconds: That of the first.

    Raises:
        DataError: The two were judged on different text.
    """
    if not np.array_equal(one.sums["words"], first.sums["words"]):
        raise DataError(f"{one.name} was judged on another validation text than the model: train both on one split")
    groups = np.arange(len(one.sums["nll"]))
    ratio = resampled(one.sums, groups)[WORD] / resampled(first.sums, groups)[WORD]
    low, high = np.quantile(ratio, [0.025, 0.975])
    values = measured(one.sums)
    return {
        "model": one.name,
        "perplexity": values["perplexity"],
        WORD: values[WORD],
        "ratio": values[WORD] / measured(first.sums)[WORD],
        "ratio_low": low,
        "ratio_high": high,
        "bytes": one.size,
        "packed_bytes": one.packed,
        "size": one.size / first.size,
        "zeros": one.zeros,
        "ms_per_token": 1000 * seconds,
        "time": seconds / first_seconds,
    }


def seconds_per_token(nets: list[tuple[Any, int]], rounds: int = 9) -> list[float]:
    """Return the median time of a token that is written alone, keys and values kept, for each network.

    The networks take turns, round by round: what slows the machine down for a while slows all of them. All write the
    same number of tokens, as many as the shortest window holds.

    Args:
        nets: Networks with their windows.
        rounds: Turns of each.
    """
    length = min(64, *(window for _, window in nets))
    times: list[list[float]] = [[] for _ in nets]
    for _ in range(rounds):
        for (net, window), own in zip(nets, times, strict=True):
            reader, token = WindowReader(net, 1, window), torch.zeros(1, 1, dtype=torch.long)
            start = time.perf_counter()
            for _ in range(length):
                token = reader.read(token).argmax(-1, keepdim=True)
            own.append((time.perf_counter() - start) / length)
    return [float(np.median(own)) for own in times]


def _keep(writer: Writer, net: Any) -> None:  # noqa: ANN401
    """Write the pruned weights as a checkpoint that `test` and `generate` take like any other."""
    saved = read_checkpoint(writer.checkpoint, "cpu")
    saved["state_dict"] |= {f"net.{name}": value for name, value in net.state_dict().items()}
    path = writer.folder / "checkpoints" / "pruned.ckpt"
    AtomicCheckpointIO().save_checkpoint(saved, path)
    print(f"written: {path}")


def _page(table: pd.DataFrame, writer: Writer, worse: float, steps: int) -> str:
    header = ["model", "perplexity", "per word", "ratio (95 %)", "MB", "packed MB", "zeros", "ms a token"]
    header.append("recommended")
    lines = [header, ["---"] * len(header)]
    for i, row in enumerate(table.to_dict("records")):
        verdict = "–" if not i else "yes" if row["recommended"] else "no"
        zeros = "–" if np.isnan(row["zeros"]) else f"{row['zeros']:.0%}"
        ratio = f"{row['ratio']:.4f} ({row['ratio_low']:.4f} to {row['ratio_high']:.4f})" if i else "1"
        lines.append(
            [
                *(row["model"], f"{row['perplexity']:.3f}", f"{row[WORD]:.3f}", ratio, f"{row['bytes'] / 1e6:.2f}"),
                *(f"{row['packed_bytes'] / 1e6:.2f}", zeros, f"{row['ms_per_token']:.2f}", verdict),
            ]
        )
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"# Smaller models in place of {writer.folder.name}\n\n{rows}\n\n"
        f"Validation part, window {writer.window}; intervals by document, paired. Recommended: surely at most "
        f"{worse:.0%} worse per word, and file or time at most {SMALLER:g} of the model's. Time: one text, with keys "
        f"and values kept, {torch.get_num_threads()} CPU thread(s). Pruned models were trained on for {steps} steps; "
        "`trained on, whole` had the same steps and keeps all weights: what it gains, pruning did not. Zeros make a "
        "packed file smaller and nothing faster: the layers multiply them like other numbers. int8: the weights of "
        "linear layers and embeddings, each row with a scale of its own; what multiplies them is not rounded.\n"
    )
