"""An exponential moving average of the weights that is already useful in the first epochs."""

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class MovingAverage(WeightAveraging):
    """Average weights and buffers after each optimizer step; validation and checkpoints use the average.

    The n-th step keeps the share min(decay, (1 + n) / (10 + n)) of the old average, so that the first epochs are not
    held back by the untrained weights, as they are with a constant decay.

    Args:
        decay: Share of the old average that a late step keeps, in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay

        def average(old: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
            n = float(count)
            share = min(decay, (1 + n) / (10 + n))
            return old + (1 - share) * (new - old)

        super().__init__(avg_fn=average)
