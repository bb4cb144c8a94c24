"""Convolutions beside attention (ViTAEv2's PCM): a transformer block that also looks at each patch's neighbours.

They carry BatchNorm, as in the paper, and that is the one place where a network of this suite is another in training
than in evaluation: in training a batch is normalised by its own mean and variance, so that an image's logits depend on
the others of its batch; in evaluation by the averages of all training batches, which are buffers and are saved with
the weights. Batches of a few images make those averages poor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # also that of many processes, nn.SyncBatchNorm

from crossvit_core.config import BranchConfig, Size
from crossvit_core.conv_stem import ConvLayer
from crossvit_core.vitae_cost import parallel_conv_cost, parallel_conv_layers


def conv_sequence(layers: Sequence[ConvLayer]) -> nn.Sequential:
    """The convolutions with BatchNorm and SiLU between them, nothing after the last: grids to grids."""
    *inner, last = layers
    modules: list[nn.Module] = []
    for layer in inner:
        modules += [nn.Conv2d(*layer), nn.BatchNorm2d(layer.outputs), nn.SiLU()]
    return nn.Sequential(*modules, nn.Conv2d(*last))


class ParallelConv(nn.Module):
    """The convolutions of one block of ``branch``, which leave the class token out.

    With ``conv_init`` "zero" the last convolution starts at zero, so that an untrained block is the plain one.
    """

    cost = staticmethod(parallel_conv_cost)

    def __init__(self, branch: BranchConfig) -> None:
        super().__init__()
        self.grid: Size = branch.grid
        self.convs = conv_sequence(parallel_conv_layers(branch))
        if branch.conv_init == "zero":
            for parameter in self.convs[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, 1 + rows * columns, C) -> what is added to them, of the same shape; zero for the class token."""
        patches = self.convs(x[:, 1:].mT.unflatten(-1, self.grid))
        return F.pad(patches.flatten(2).mT, (0, 0, 1, 0))


def has_batch_statistics(model: nn.Module) -> bool:
    """Does ``model`` now mix the images of a batch: has it a BatchNorm in training mode?"""
    return any(isinstance(module, BatchNorm) and module.training for module in model.modules())


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Within this context a forward pass in training leaves the averages as they are: for one that repeats another."""
    # The momentum, not track_running_stats: the repeated pass must save the tensors that the first one saved.
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]  # type: ignore[union-attr]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)  # type: ignore[union-attr]
