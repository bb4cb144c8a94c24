"""Multi-scale encoders: each branch runs its transformer blocks, then the branches meet in one of five ways.

A branch's tokens are (B, T_i, C_i), class token first. Encoders are named by fusion and define ``exchange``. Names
of parameters are the published weights': ``blocks``, ``projs`` (the paper's f), ``fusion``, ``revert_projs`` (g).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossvit_core import cost
from crossvit_core.blocks import AttentionBlock, Block, norm_layer
from crossvit_core.config import ATTENTION_FUSIONS, BranchConfig, EncoderConfig, Size
from crossvit_core.cross_attention import CrossAttentionBlock
from crossvit_core.parallel_conv import ParallelConv
from crossvit_core.residual_attention import Chain, Chains
from crossvit_core.window_attention import WindowAttention

Branches = Sequence[BranchConfig]
Read = frozenset[int] | None


def token_map(inputs: int, outputs: int) -> nn.Sequential:
    """f or g: LayerNorm, GELU, linear, as both published codes have it (the paper writes a bare projection)."""
    return nn.Sequential(norm_layer(inputs), nn.GELU(), nn.Linear(inputs, outputs))


class MultiScaleEncoder(nn.Module):
    """What all encoders share: the blocks of every branch (paper Fig. 2).

    ``drop_path`` are stochastic-depth rates: block b of every branch takes entry b, the fusion the last. ``read`` are
    the branches whose patches are read after the blocks (``reading.read_patches``); None: all of them. With
    ``reference`` set the encoder computes as the paper writes it, row for row, instead of only what will be read.
    """

    def __init__(
        self, branches: Branches, encoder: EncoderConfig, drop_path: Sequence[float], read: Read = None
    ) -> None:
        super().__init__()
        self.reference = False
        self.attends = encoder.fusion in ATTENTION_FUSIONS
        self.blocks = nn.ModuleList(
            nn.Sequential(
                *(
                    _block(branch, encoder.window_side(index), drop_path[b], b < depth - 1 or _is_read(index, read))
                    for b in range(depth)
                )
            )
            for index, (branch, depth) in enumerate(zip(branches, encoder.depths))
        )

    def forward(
        self, tokens: list[Tensor], class_only: bool = False, lean: bool = False, chains: Chains | None = None
    ) -> list[Tensor]:
        """One (B, T_i, C_i) per branch -> the same shapes, or (B, 1, C_i), the class tokens, if ``class_only``.

        ``lean`` writes over ``tokens``; see ``crossvit_core.lean``. ``chains`` are those of residual attention.
        """
        class_only, lean = class_only and not self.reference, lean and not self.reference
        skip_patches = class_only and not self.attends
        starts = [None if chains is None else chains.of_branch(index) for index in range(len(tokens))]
        ran = [_run(blocks, x, skip_patches, lean, chain) for blocks, x, chain in zip(self.blocks, tokens, starts)]
        # Maps of all tokens, as some fusions end with, give half precision under autocast, and it would stay so.
        return [x.to(own.dtype) for x, own in zip(self.exchange(ran, class_only, lean, chains), tokens)]

    def set_grids(self, grids: Sequence[Size]) -> None:
        """Read images of other sizes from now on: one (rows, columns) per branch."""
        for blocks, grid in zip(self.blocks, grids):
            for module in blocks.modules():
                if isinstance(module, (ParallelConv, WindowAttention)):
                    module.grid = grid

    def exchange(
        self, tokens: list[Tensor], class_only: bool, lean: bool, chains: Chains | None = None
    ) -> list[Tensor]:
        """The exchange between branches; shapes as in ``forward``."""
        raise NotImplementedError(f"{type(self).__name__} defines no exchange()")


def _is_read(index: int, read: Read) -> bool:
    return read is None or index in read


def _block(branch: BranchConfig, window_side: int, drop_path: float, patches_are_read: bool) -> Block:
    """A block of ``branch``; with the options that it has, unless only its class token is read: they serve patches."""
    block = Block(branch.embed_dim, branch.num_heads, branch.mlp_dim, drop_path)
    if not patches_are_read:
        return block
    if window_side:
        block.attn = WindowAttention(branch.embed_dim, branch.num_heads, branch.grid, window_side)
    if branch.conv_path:
        block.conv_path = ParallelConv(branch)
    return block


def _run(blocks: nn.Module, x: Tensor, class_only: bool, lean: bool, chain: Chain | None = None) -> Tensor:
    """The blocks of one branch, in a chain or not; the last of them for the class row alone if ``class_only``."""
    assert isinstance(blocks, nn.Sequential)
    last = len(blocks) - 1
    for index, block in enumerate(blocks):
        row = class_only and index == last
        x = block(x, row, lean) if chain is None else chain.through(block, x, row, lean)
    return x[:, :1] if class_only else x


class UnfusedEncoder(MultiScaleEncoder):
    """Branches that do not meet before the head; also the encoder of a plain ViT."""

    cost = staticmethod(cost.no_fusion_cost)

    def exchange(
        self, tokens: list[Tensor], class_only: bool, lean: bool, chains: Chains | None = None
    ) -> list[Tensor]:
        return tokens


class AllAttentionEncoder(MultiScaleEncoder):
    """Eq. 2: all tokens of all branches, mapped to the largest width, attend to each other ``fusion_depth`` times."""

    cost = staticmethod(cost.all_attention_cost)

    def __init__(
        self, branches: Branches, encoder: EncoderConfig, drop_path: Sequence[float], read: Read = None
    ) -> None:
        super().__init__(branches, encoder, drop_path, read)
        common = _widest(branches)
        self.projs = nn.ModuleList(token_map(b.embed_dim, common.embed_dim) for b in branches)
        self.fusion = nn.ModuleList(
            AttentionBlock(common.embed_dim, common.num_heads, drop_path[-1]) for _ in range(encoder.fusion_depth)
        )
        self.revert_projs = nn.ModuleList(token_map(common.embed_dim, b.embed_dim) for b in branches)

    def exchange(
        self, tokens: list[Tensor], class_only: bool, lean: bool, chains: Chains | None = None
    ) -> list[Tensor]:
        mapped = [proj(x) for proj, x in zip(self.projs, tokens)]
        together = torch.cat(mapped, dim=1)
        *blocks, last = self.fusion
        for block in blocks:
            together = block(together, lean=lean)
        counts = [x.shape[1] for x in mapped]
        if class_only:
            rows = torch.cat([part[:, :1] for part in together.split(counts, dim=1)], dim=1)
            together, counts = last(together, rows, lean), [1] * len(mapped)
        else:
            together = last(together, lean=lean)
        return [revert(part) for revert, part in zip(self.revert_projs, together.split(counts, dim=1))]


class ClassTokenEncoder(MultiScaleEncoder):
    """Eq. 3: every branch's class token becomes the sum of all of them, at the largest width."""

    cost = staticmethod(cost.class_token_cost)

    def __init__(
        self, branches: Branches, encoder: EncoderConfig, drop_path: Sequence[float], read: Read = None
    ) -> None:
        super().__init__(branches, encoder, drop_path, read)
        self.projs, self.revert_projs = _maps_of_narrow_branches(branches)

    def exchange(
        self, tokens: list[Tensor], class_only: bool, lean: bool, chains: Chains | None = None
    ) -> list[Tensor]:
        shared = torch.stack([proj(x[:, :1]) for proj, x in zip(self.projs, tokens)]).sum(dim=0)
        fused = [revert(shared) for revert in self.revert_projs]
        return fused if class_only else [_with_patches_of(x, row, lean) for x, row in zip(tokens, fused)]


class PairwiseEncoder(MultiScaleEncoder):
    """Eq. 4: class tokens and, brought to each branch's grid by bilinear interpolation, patches are summed."""

    cost = staticmethod(cost.pairwise_cost)

    def __init__(
        self, branches: Branches, encoder: EncoderConfig, drop_path: Sequence[float], read: Read = None
    ) -> None:
        super().__init__(branches, encoder, drop_path, read)
        self.projs, self.revert_projs = _maps_of_narrow_branches(branches)
        self.grids = [branch.grid for branch in branches]

    def set_grids(self, grids: Sequence[Size]) -> None:
        super().set_grids(grids)
        self.grids = list(grids)

    def exchange(
        self, tokens: list[Tensor], class_only: bool, lean: bool, chains: Chains | None = None
    ) -> list[Tensor]:
        mapped = [proj(x) for proj, x in zip(self.projs, tokens)]
        row = torch.stack([x[:, :1] for x in mapped]).sum(dim=0)
        if class_only:
            return [revert(row) for revert in self.revert_projs]
        sums = [torch.cat((row, self._patches_on(grid, mapped)), dim=1) for grid in self.grids]
        return [revert(x) for revert, x in zip(self.revert_projs, sums)]

    def _patches_on(self, grid: Size, mapped: list[Tensor]) -> Tensor:
        """The sum of all branches' patches on one grid, (B, rows * columns, D)."""
        return torch.stack([_regrid(x[:, 1:], own, grid) for x, own in zip(mapped, self.grids)]).sum(dim=0)


def _regrid(patches: Tensor, source: Size, target: Size) -> Tensor:
    """(B, rows * columns, D) on the source grid -> the same on the target grid."""
    if source == target:
        return patches
    image = patches.mT.unflatten(-1, source)
    return F.interpolate(image, size=target, mode="bilinear", align_corners=False).flatten(2).mT


class CrossAttentionEncoder(MultiScaleEncoder):
    """Eq. 5 to 7, the paper's own: the class token of branch i visits the patches of branch i + 1 and comes back.

    With more than two branches the visits are cyclic, as in the released code. Patches are not changed.
    """

    cost = staticmethod(cost.cross_attention_cost)

    def __init__(
        self, branches: Branches, encoder: EncoderConfig, drop_path: Sequence[float], read: Read = None
    ) -> None:
        super().__init__(branches, encoder, drop_path, read)
        self.keeps_patches = encoder.fusion_reading == "patches"
        hosts = [*branches[1:], branches[0]]
        widths = [(guest.embed_dim, host.embed_dim) for guest, host in zip(branches, hosts)]
        self.projs = nn.ModuleList(_map_or_identity(a, b, encoder.identity_maps) for a, b in widths)
        self.fusion = nn.ModuleList(_cross_attention_stack(host, encoder, drop_path[-1]) for host in hosts)
        self.revert_projs = nn.ModuleList(_map_or_identity(b, a, encoder.identity_maps) for a, b in widths)

    def exchange(
        self, tokens: list[Tensor], class_only: bool, lean: bool, chains: Chains | None = None
    ) -> list[Tensor]:
        hosts = [*tokens[1:], tokens[0]]
        guests = [proj(x[:, :1]) for proj, x in zip(self.projs, tokens)]
        started = [None if chains is None else chains.of_visit(index) for index in range(len(tokens))]
        visited = [self._visit(*visit, lean) for visit in zip(self.fusion, guests, hosts, started)]
        rows = [revert(x) for revert, x in zip(self.revert_projs, visited)]
        return rows if class_only else [_with_patches_of(x, row, lean) for x, row in zip(tokens, rows)]

    def _visit(self, fusion: nn.Module, guest: Tensor, host: Tensor, chain: Chain | None, lean: bool) -> Tensor:
        """One class token through its stack of cross-attention blocks, (B, 1, C_host) -> (B, 1, C_host)."""
        for index, block in enumerate(fusion if isinstance(fusion, nn.Sequential) else (fusion,)):
            others = host if self.keeps_patches or index == 0 else None
            if chain is None or others is None:  # alone with itself a token has one logit, and no chain
                guest = block(guest, others, self.reference, lean)
            else:
                guest = chain.through(block, guest, others, self.reference, lean)
        return guest


def _cross_attention_stack(host: BranchConfig, encoder: EncoderConfig, drop_path: float) -> nn.Module:
    """One block, or several that are numbered: the published names have no number if there is one."""
    blocks = [CrossAttentionBlock(host.embed_dim, host.num_heads, drop_path) for _ in range(encoder.fusion_depth)]
    if encoder.fusion_reading != "patches":
        for block in blocks[1:]:
            block.attn.freeze_logits()
    return blocks[0] if len(blocks) == 1 else nn.Sequential(*blocks)


def _map_or_identity(inputs: int, outputs: int, identity_if_equal: bool) -> nn.Module:
    return nn.Identity() if identity_if_equal and inputs == outputs else token_map(inputs, outputs)


def _maps_of_narrow_branches(branches: Branches) -> tuple[nn.ModuleList, nn.ModuleList]:
    """f and g between every branch and the largest width; a branch that has it needs none."""
    common, widths = _widest(branches).embed_dim, [branch.embed_dim for branch in branches]
    return (
        nn.ModuleList(_map_or_identity(width, common, True) for width in widths),
        nn.ModuleList(_map_or_identity(common, width, True) for width in widths),
    )


def _widest(branches: Branches) -> BranchConfig:
    return max(branches, key=lambda branch: branch.embed_dim)


def _with_patches_of(x: Tensor, row: Tensor, lean: bool) -> Tensor:
    """Tokens (B, T, C) with their class token replaced by ``row`` (B, 1, C)."""
    if lean:
        x[:, :1] = row
        return x
    return torch.cat((row, x[:, 1:]), dim=1)


@contextmanager
def reference_form(model: nn.Module) -> Iterator[None]:
    """Within this context ``model`` computes as the paper writes it: the same outputs by the counted multiply-adds."""
    encoders = [module for module in model.modules() if isinstance(module, MultiScaleEncoder)]
    before = [encoder.reference for encoder in encoders]
    for encoder in encoders:
        encoder.reference = True
    try:
        yield
    finally:
        for encoder, value in zip(encoders, before):
            encoder.reference = value


FUSIONS: dict[str, type[MultiScaleEncoder]] = {
    "none": UnfusedEncoder,
    "all_attention": AllAttentionEncoder,
    "class_token": ClassTokenEncoder,
    "pairwise": PairwiseEncoder,
    "cross_attention": CrossAttentionEncoder,
}
