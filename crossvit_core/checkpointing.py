"""Gradient checkpointing: blocks that keep their inputs alone and compute the rest again for the backward pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from crossvit_core.blocks import AttentionBlock, Block
from crossvit_core.cross_attention import CrossAttentionBlock
from crossvit_core.parallel_conv import frozen_statistics, has_batch_statistics


class _Checkpointed(nn.Module):
    """Mixed into a block. Random states are replayed, so stochastic depth drops the same samples twice."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        # A compiler counts a batch once by itself, and takes no contexts of ours.
        if not torch.compiler.is_compiling() and has_batch_statistics(self):
            kwargs["context_fn"] = self._contexts
        return checkpoint(super().forward, *args, use_reentrant=False, **kwargs)

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Of the forward pass, and of the one that repeats it, from which averages of batches learn nothing."""
        return nullcontext(), frozen_statistics(self)


class CheckpointedBlock(_Checkpointed, Block):
    """A ``Block`` that is computed again in the backward pass."""


class CheckpointedAttentionBlock(_Checkpointed, AttentionBlock):
    """An ``AttentionBlock`` that is computed again in the backward pass."""


class CheckpointedCrossAttentionBlock(_Checkpointed, CrossAttentionBlock):
    """A ``CrossAttentionBlock`` that is computed again in the backward pass."""


def set_checkpointing(model: nn.Module, enable: bool) -> None:
    """Switch all blocks within ``model``, in place. Names of parameters and modules stay, as do copies and pickles."""
    swaps = CHECKPOINTED if enable else {checkpointed: plain for plain, checkpointed in CHECKPOINTED.items()}
    for module in model.modules():
        # A class, not a wrapper: a wrapper would rename every parameter.
        module.__class__ = swaps.get(type(module), type(module))


CHECKPOINTED: dict[type[nn.Module], type[nn.Module]] = {
    Block: CheckpointedBlock,
    AttentionBlock: CheckpointedAttentionBlock,
    CrossAttentionBlock: CheckpointedCrossAttentionBlock,
}
