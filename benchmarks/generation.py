"""What keeping keys and values saves: ``python -m benchmarks.generation --config configs/language.yaml``.

The same texts are written twice in each round, with keys and values kept and without, in turn; the cost is the time of
a token. The network is that of a run (``--run runs/language/NAME``), or untrained, as the time does not depend on the
weights: that of a config with its memory, copying head, vocabulary and window, or a plain one of the given sizes.
Without kept keys and values a step reads the whole window anew; both score the vocabulary at the last position only.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from benchmarks.record import ROOT, sha256, write_record
from lightning_project.writer import Writer
from modules.continuing import continue_texts
from modules.decoding import Text
from modules.generation import Sampling

FILES = ("benchmarks/generation.py", "modules/decoding.py", "modules/continuing.py", "modules/generation.py",
         "modules/nets/language.py", "modules/nets/language_parts.py", "modules/nets/memory.py")  # fmt: skip
SIZES = {"width": 128, "depth": 3, "vocabulary": 1536, "window": 128}


def untrained(width: int, depth: int, vocabulary: int, window: int) -> Any:  # noqa: ANN401  # a language model
    """Return a network of our form with these sizes."""
    from modules.nets.language import LanguageTransformer, Shape

    torch.manual_seed(0)
    shape = Shape(width, depth, width // 64 or 1, 4 * width, window, norm="pre", positions="rotary", tied=True)
    return LanguageTransformer(vocabulary, shape).eval()


def of_config(paths: Sequence[str]) -> tuple[Any, int]:
    """Return an untrained network of a config, and the window of its data.

    Args:
        paths: A complete config of ``language``, and those laid over it.
    """
    from modules.nets.language import LanguageTransformer, Shape
    from modules.nets.memory import Slots

    found: dict[str, Any] = {}
    for path in paths:
        found = laid_over(found, yaml.safe_load((ROOT / path).read_text(encoding="utf-8")))
    model, data = found["model"]["init_args"], found["data"]["init_args"]
    if model["network"] != "transformer":
        raise ValueError(f"{paths[-1]}: network {model['network']} keeps no keys and values")
    memory = Slots(**model["memory"]) if model["memory"] is not None else None
    torch.manual_seed(0)
    size = model["vocab_size"] or data["vocab_size"]
    return LanguageTransformer(size, Shape(**model["shape"]), memory=memory).eval(), int(data["window"])


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return a config with another laid over it, key by key."""
    both = {name: laid_over(below[name], value) for name, value in above.items()
            if isinstance(value, dict) and isinstance(below.get(name), dict)}  # fmt: skip
    return {**below, **above, **both}


def seconds(net: Any, window: int, batch: int, tokens: int, cached: bool) -> tuple[float, list[list[int]]]:  # noqa: ANN401
    """Return the time of writing ``tokens`` tokens for each of ``batch`` texts, and the texts."""
    texts = [Text.make(i, [0], Sampling("greedy"), tokens, 0, lambda ids: "") for i in range(batch)]
    start = time.perf_counter()
    continue_texts(net, texts, window, None, batch, cached)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, [text.tokens for text in texts]


def measure(net: Any, window: int, batch: int, tokens: int, rounds: int) -> dict[str, Any]:  # noqa: ANN401
    """Return tokens per second with and without kept keys and values, and how many times as fast the one is."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds + 1):
        made = {cached: seconds(net, window, batch, tokens, cached) for cached in (True, False)}
        if made[True][1] != made[False][1]:
            raise RuntimeError("the two wrote different texts: keys and values that are kept must change nothing")
        for cached, (spent, _) in made.items():
            times[cached].append(spent)
    ratios = sorted(plain / kept for kept, plain in zip(times[True][1:], times[False][1:], strict=True))
    count = batch * tokens
    return {
        "batch": batch,
        "window": window,
        "tokens": tokens,
        "rounds": rounds,
        "memory": getattr(net, "memory", None) is not None,
        "copy": getattr(net, "copy", None) is not None,
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "device": str(next(net.parameters()).device),
        "cached_tokens_per_second": count / median(times[True][1:]),
        "plain_tokens_per_second": count / median(times[False][1:]),
        "ratio": median(ratios),
        "ratio_spread": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
    }


def describe(found: dict[str, Any]) -> str:
    """The figures in one line."""
    low, high = found["ratio_spread"]
    parts = f"{'with' if found['memory'] else 'no'} memory, {'with' if found['copy'] else 'no'} copying head"
    return (
        f"{found['parameters']:,} parameters ({parts}), {found['batch']} text(s) of {found['tokens']} tokens, window "
        f"{found['window']}, {found['device']}: {found['cached_tokens_per_second']:.0f} tokens/s with keys and values "
        f"kept, {found['plain_tokens_per_second']:.0f} without; {found['ratio']:.2f} times as fast (middle half of "
        f"{found['rounds']} rounds: {low:.2f} to {high:.2f})"
    )


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, and leave a record when asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__, allow_abbrev=False)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--run", help="run folder of a language model")
    source.add_argument("--config", nargs="+", help="a config of language, and those laid over it: untrained")
    for name, size in SIZES.items():
        parser.add_argument(f"--{name}", type=int, help=f"of an untrained, plain network (default {size})")
    parser.add_argument("--tokens", type=int, default=128, help="of each text; more than the window makes it move on")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="texts at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--record", metavar="NAME", help="write benchmarks/records/NAME.json")
    given = parser.parse_args(args)
    own = {name: getattr(given, name) for name in SIZES if getattr(given, name) is not None}
    if own and (given.run or given.config):
        parser.error(f"--{next(iter(own))} is that of the run or config: leave it out")
    files = list(FILES)
    data: dict[str, str | int] = {"untrained": 0}
    if given.run:
        writer = Writer.of_run(given.run, device=given.device)
        net, window = writer.net, writer.window
        data = {f"weights of {Path(given.run).name}": sha256(writer.checkpoint)}
        words = [f"--run {Path(given.run).name}"]
    elif given.config:
        net, window = of_config(given.config)
        files += given.config
        words = [f"--config {' '.join(given.config)}"]
    else:
        sizes = {**SIZES, **own}
        net, window = untrained(**sizes), sizes["window"]
        words = [f"--{name} {size}" for name, size in sizes.items()]
    net.to(given.device)
    found = {f"batch_{batch}": measure(net, window, batch, given.tokens, given.rounds) for batch in given.batches}
    for one in found.values():
        print(describe(one))
    if given.record:
        batches = " ".join(map(str, given.batches))
        words += [f"--tokens {given.tokens}", f"--batches {batches}", f"--rounds {given.rounds}"]
        command = " ".join(["python -m benchmarks.generation", *words, f"--device {given.device}"])
        path = write_record(given.record, command, [ROOT / name for name in files], data, [0], found)
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
