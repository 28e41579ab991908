"""Muon for the matrices of a network and AdamW for the rest of it, as one optimizer."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """Train weight matrices by orthogonalised momentum, and embeddings, vectors and convolutions with AdamW.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) is made for the matrices inside a network, so
    it takes the two-dimensional parameters of the groups that decay; the house's groups
    (:func:`modules.optim.parameter_groups`) keep embeddings, tied heads, norms and biases out of these, unless
    ``decay_all`` is set. Both parts are torch's own; a schedule scales the learning rates of both by the same factor,
    and the rate that a log shows is Muon's. Systems that set rates by group (``papers``, ``plants`` with
    ``layer_decay``, ``gcode_decoder`` with ``train_encoder``) have no use for it.

    Args:
        params: Parameter groups; one with ``weight_decay`` 0 goes to AdamW as a whole.
        lr: Learning rate of AdamW.
        matrix_lr: Learning rate of Muon; about ten times the other.
        weight_decay: Of both.
        momentum: Of Muon.
        betas: Of AdamW.
        eps: Of AdamW.
        fused: AdamW's fused kernel.

    Raises:
        ValueError: It was not given groups, or no group has a matrix that decays: use AdamW.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 3e-3,
        matrix_lr: float = 3e-2,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-9,
        fused: bool | None = None,
    ) -> None:
        groups = list(params)
        if not all(isinstance(group, dict) for group in groups):
            raise ValueError(
                "MuonAdamW divides the groups of a whole network: with rates by group use torch.optim.AdamW"
            )
        matrices, rest = _divided(groups)
        if not matrices:
            raise ValueError("MuonAdamW found no matrix in a group that decays: use torch.optim.AdamW")
        muon = Muon(matrices, lr=matrix_lr, weight_decay=weight_decay, momentum=momentum)
        self._parts: list[Optimizer] = [muon]
        if rest:
            self._parts.append(AdamW(rest, lr=lr, weight_decay=weight_decay, betas=betas, eps=eps, fused=fused))
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._join()

    def _join(self) -> None:
        """Let the parts work on this optimizer's groups and state: a schedule and a checkpoint see one optimizer."""
        begin = 0
        for part in self._parts:
            end = begin + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[begin:end], self.state
            begin = end

    def __getstate__(self) -> dict[str, Any]:
        """Return all of it, for a copy."""
        return {**super().__getstate__(), "_parts": self._parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a copied or loaded state."""
        super().__setstate__(state)
        self._join()

    def step(self, closure: Any = None) -> Any:  # noqa: ANN401  # as torch has it
        """Take one step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss


def _divided(groups: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the groups for Muon and those for AdamW; one that is cut in two keeps its name in both."""
    matrices: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for group in groups:
        chosen = [p for p in group["params"] if p.ndim == 2 and group.get("weight_decay") != 0]
        others = [p for p in group["params"] if p.ndim != 2 or group.get("weight_decay") == 0]
        matrices += [{**group, "params": chosen}] if chosen else []
        rest += [{**group, "params": others}] if others else []
    return matrices, rest
