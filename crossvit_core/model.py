"""The network of an ``ArchConfig``: CrossViT (arXiv 2103.14899) and what its search space reaches.

Parameters have timm's names (``timm.models.crossvit``), so published weights load strictly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossvit_core.blocks import norm_layer
from crossvit_core.config import ArchConfig, EncoderConfig, Size
from crossvit_core.fusion import FUSIONS
from crossvit_core.heads import HEADS
from crossvit_core.stems import STEMS


class CrossViT(nn.Module):
    """Branches that read one image at their own scales, run through multi-scale encoders, and vote.

    ``drop_path_rate`` is the largest rate of stochastic depth, ``drop_rate`` the dropout of the class features.
    Use ``build_model``, which checks the architecture first.
    """

    def __init__(self, arch: ArchConfig, *, drop_path_rate: float = 0.0, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.arch = arch
        self.num_classes = arch.num_classes
        for index, branch in enumerate(arch.branches):
            self.register_parameter(
                f"pos_embed_{index}", nn.Parameter(torch.empty(1, branch.num_tokens, branch.embed_dim))
            )
            self.register_parameter(f"cls_token_{index}", nn.Parameter(torch.empty(1, 1, branch.embed_dim)))
        self.patch_embed = nn.ModuleList(STEMS[branch.stem](branch, arch.in_channels) for branch in arch.branches)
        self.blocks = nn.ModuleList(
            FUSIONS[encoder.fusion](arch.branches, encoder, rates)
            for encoder, rates in zip(arch.encoders, drop_path_rates(arch.encoders, drop_path_rate))
        )
        widths = [branch.embed_dim for branch in arch.branches]
        self.norm = nn.ModuleList(norm_layer(width) for width in widths)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = HEADS[arch.head.kind](widths, arch.num_classes)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) at the architecture's own size -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """The normed class token of every branch, one (B, embed_dim) each. Raises ValueError for another image size."""
        self._check_images(images)
        scaled = {size: _resize(images, size) for size in {branch.size for branch in self.arch.branches}}
        tokens = [self._embed(index, scaled[branch.size]) for index, branch in enumerate(self.arch.branches)]
        last = len(self.blocks) - 1
        for index, encoder in enumerate(self.blocks):
            tokens = encoder(tokens, class_only=index == last)
        return [norm(x[:, 0]) for norm, x in zip(self.norm, tokens)]

    def forward_head(self, features: Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """Class features -> logits (B, num_classes); ``pre_logits``: the features side by side, (B, sum of C_i)."""
        dropped = [self.head_drop(x) for x in features]
        return torch.cat(dropped, dim=1) if pre_logits else self.head(dropped)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that timm's optimizer factory exempts from weight decay, besides biases and norms."""
        return {f"{name}_{index}" for index in range(len(self.arch.branches)) for name in ("pos_embed", "cls_token")}

    def _embed(self, index: int, images: Tensor) -> Tensor:
        """Class token and patches with their positions, (B, T, C)."""
        patches = self.patch_embed[index](images)
        token = getattr(self, f"cls_token_{index}").expand(patches.shape[0], -1, -1)
        return torch.cat((token, patches), dim=1) + getattr(self, f"pos_embed_{index}")

    def _check_images(self, images: Tensor) -> None:
        expected = (self.arch.in_channels, *self.arch.size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"images of shape {tuple(images.shape)} do not fit; this architecture reads (batch, "
                f"{', '.join(map(str, expected))}): resize them, or build one with another image_size or in_channels"
            )


def build_model(arch: ArchConfig, *, drop_path_rate: float = 0.0, drop_rate: float = 0.0) -> CrossViT:
    """A freshly initialised network, in training mode, on torch's default device.

    Raises ArchError if the architecture cannot be built, ValueError for rates outside [0, 1).
    """
    arch.check()
    for name, rate in (("drop_path_rate", drop_path_rate), ("drop_rate", drop_rate)):
        if not 0 <= rate < 1:
            raise ValueError(f"{name} {rate} is not a rate; use one of at least 0 and below 1")
    return CrossViT(arch, drop_path_rate=drop_path_rate, drop_rate=drop_rate)


def drop_path_rates(encoders: Sequence[EncoderConfig], rate: float) -> list[list[float]]:
    """Rates of stochastic depth per encoder, rising linearly from 0 to ``rate`` over all of them.

    As in the released networks: blocks of equal index in different branches share a rate, a single fusion block takes
    the rate of the last block before it, and a stack of L >= 2 takes the last of L steps of its own.
    """
    steps = [max(encoder.depths) + _fusion_steps(encoder) for encoder in encoders]
    rates = torch.linspace(0, rate, sum(steps), device="cpu", dtype=torch.float64).tolist() or [0.0]
    ends = [sum(steps[: index + 1]) for index in range(len(steps))]
    # An encoder without steps of its own still has a fusion, which takes the rate before it.
    return [rates[end - count : end] or [rates[max(end - 1, 0)]] for end, count in zip(ends, steps)]


def _fusion_steps(encoder: EncoderConfig) -> int:
    stacked = FUSIONS[encoder.fusion].stacks and encoder.fusion_depth > 1
    return encoder.fusion_depth if stacked else 0


def _resize(images: Tensor, size: Size) -> Tensor:
    """Bicubic, without antialiasing, as the published networks feed their large-patch branch."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bicubic", align_corners=False)


def _initialise(model: CrossViT) -> None:
    """Linear weights, positions and class tokens: normal, deviation 0.02; biases: 0; convolutions: torch's default."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    for parameter in model.parameters(recurse=False):
        nn.init.trunc_normal_(parameter, std=0.02)
