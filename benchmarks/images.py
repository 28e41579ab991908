"""Pictures a second of the input pipeline, the network and ``fit``: ``python -m benchmarks.images --system plants``.

One ``fit`` measures itself: its own epochs after the first, without their validation; then, on the same objects, the
loader with the copy to the device and the augmentation and nothing else; then training steps on one batch that already
lies on the device. ``fit`` can be no faster than the slower of the two, and should reach 90 % of it.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from lightning.pytorch import Callback, Trainer

from benchmarks.common import epochs, measure, read_words, verdict
from benchmarks.rounds import BareLoop, now
from callbacks.report_files import write_json
from modules.classifier import Classifier

TARGET = 0.9


class Images(Callback):
    """Time the epochs of a fit, and at its end the pipeline and the network by themselves.

    Args:
        out: JSON file for the figures.
        steps: Most training steps of each of the two.
    """

    def __init__(self, out: str, steps: int = 50) -> None:
        self.out, self.steps = Path(out), steps
        self.clock: list[float] = []
        self.rates: list[float] = []

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: Classifier, outputs: object, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Read the clock at the first and the last step of an epoch only: reading it waits for the device."""
        if batch_idx == 0 or trainer.is_last_batch:
            self.clock.append(now(pl_module.device))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Keep the rate of the epoch; the first one warms up, and its first batch starts the workers."""
        size = trainer.datamodule.batch_size  # type: ignore[attr-defined]
        if trainer.current_epoch > 0 and len(self.clock) == 2:
            images = len(trainer.datamodule.indices("train")) - size  # type: ignore[attr-defined]
            self.rates.append(images / (self.clock[1] - self.clock[0]))
        self.clock = []

    def on_train_end(self, trainer: Trainer, pl_module: Classifier) -> None:  # type: ignore[override]
        """Time the two parts and write the figures."""
        pipeline = self._pipeline(trainer, pl_module)
        network = self._network(trainer, pl_module)
        fit, slower = median(self.rates), min(pipeline, network)
        figures = {"pipeline": pipeline, "network": network, "fit": fit, "share_of_the_slower": fit / slower}
        write_json(self.out, figures | {"epochs": len(self.rates), "device": str(pl_module.device)})

    def _ready(self, batch: dict[str, Any], trainer: Trainer, system: Classifier) -> dict[str, Any]:
        moved = {name: value.to(system.device, non_blocking=True) for name, value in batch.items()}
        found: dict[str, Any] = trainer.datamodule.on_after_batch_transfer(moved, 0)  # type: ignore[attr-defined]
        return found

    def _pipeline(self, trainer: Trainer, system: Classifier) -> float:
        """Pictures a second of loading, copying and augmenting, from the second batch on."""
        loader = trainer.datamodule.train_dataloader()  # type: ignore[attr-defined]
        images, start = 0, 0.0
        for place, batch in enumerate(loader):
            ready = self._ready(batch, trainer, system)
            if place == 0:
                start = now(system.device)
            else:
                images += len(ready["y"])
            if place == self.steps:
                break
        return images / (now(system.device) - start)

    def _network(self, trainer: Trainer, system: Classifier) -> float:
        """Pictures a second of training steps on one batch; the median of single steps where nothing is queued."""
        batch = self._ready(next(iter(trainer.datamodule.train_dataloader())), trainer, system)  # type: ignore[attr-defined]
        loop = BareLoop(system, trainer)
        if system.compile_net:
            loop.net.compile()
        with trainer.precision_plugin.forward_context():
            for _ in range(5):
                loop.step(batch)
            start = now(system.device)
            for _ in range(self.steps):
                loop.step(batch)
        return self.steps * len(batch["y"]) / (now(system.device) - start)


def describe(figures: dict[str, Any]) -> str:
    """The figures in a few lines, with the target beside them."""
    share = figures["share_of_the_slower"]
    return "\n".join(
        [
            f"pictures per second on {figures['device']}: pipeline {figures['pipeline']:.0f}, "
            f"network {figures['network']:.0f}, fit {figures['fit']:.0f} (median of {figures['epochs']} epochs)",
            f"  fit over the slower of the two: {share:.3f}; {verdict(share, at_least=TARGET)}",
        ]
    )


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, and leave a record when asked."""
    given = read_words("benchmarks.images", __doc__, ["plants"], 4, args)
    options = [f"--data.path={given.data.resolve()}"] if given.data else []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        words = [*epochs(given.rounds + 1), *options, *given.options]
        figures = measure(given.configs, "benchmarks.images.Images", words, Path(name))
    print(describe(figures))
    print(f"  measured in {time.perf_counter() - started:.0f} s")
    given.keep("benchmarks.images", [], {**figures, "target": TARGET})


if __name__ == "__main__":
    main()
