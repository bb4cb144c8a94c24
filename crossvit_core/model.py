"""The network of an ``ArchConfig``: CrossViT (arXiv 2103.14899) and what its search space reaches.

Parameters have timm's names (``timm.models.crossvit``), so published weights load strictly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crossvit_core import lean
from crossvit_core.blocks import norm_layer
from crossvit_core.checkpointing import set_checkpointing
from crossvit_core.config import ATTENTION_FUSIONS, ArchConfig, EncoderConfig
from crossvit_core.exshortcut import ExShortcutHead, build_taps
from crossvit_core.exshortcut_config import feature_widths, tap_name, taps_of
from crossvit_core.fields import is_count
from crossvit_core.fusion import FUSIONS, MultiScaleEncoder
from crossvit_core.heads import HEADS
from crossvit_core.input_config import input_config
from crossvit_core.intermediates import FORMATS, chosen_features, encoders_of, feature_info, feature_map
from crossvit_core.lean import shares_of
from crossvit_core.parallel_conv import has_batch_statistics
from crossvit_core.positions import resize_positions, with_image_size
from crossvit_core.reading import read_patches
from crossvit_core.rescale import rescale
from crossvit_core.residual_attention import Chains, build_alphas
from crossvit_core.residual_config import alpha_sizes
from crossvit_core.stems import STEMS


class CrossViT(nn.Module):
    """Branches that read one image at their own scales, run through multi-scale encoders, and vote.

    ``drop_path_rate`` is the largest rate of stochastic depth, ``drop_rate`` the dropout of the class features.
    Use ``build_model``, which checks the architecture first.

    The methods are those of timm's models and take what those take, so that timm's tools accept this network. ``arch``
    says what the network is now: ``set_input_size`` and ``reset_classifier`` change it. ``pretrained_cfg``, also named
    ``default_cfg``, is timm's description of it: how to prepare images, and which classifier it was built with.
    """

    def __init__(self, arch: ArchConfig, *, drop_path_rate: float = 0.0, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.arch = arch
        self.num_classes = arch.num_classes
        self.in_chans = arch.in_channels
        self.num_features = self.head_hidden_size = sum(feature_widths(arch))
        self.is_pruned = False
        self.pretrained_cfg = self.default_cfg = input_config(arch)
        for index, branch in enumerate(arch.branches):
            self.register_parameter(
                f"pos_embed_{index}", nn.Parameter(torch.empty(1, branch.num_tokens, branch.embed_dim))
            )
            self.register_parameter(f"cls_token_{index}", nn.Parameter(torch.empty(1, 1, branch.embed_dim)))
        self.patch_embed = nn.ModuleList(STEMS[branch.stem](branch, arch.in_channels) for branch in arch.branches)
        self.blocks = nn.ModuleList(
            FUSIONS[encoder.fusion](arch.branches, encoder, rates, read)
            for encoder, rates, read in zip(
                arch.encoders, drop_path_rates(arch.encoders, drop_path_rate), read_patches(arch)
            )
        )
        self.norm = nn.ModuleList(norm_layer(branch.embed_dim) for branch in arch.branches)
        self.taps = build_taps(arch)
        self.residual_attention = build_alphas(arch)
        self.head_drop = nn.Dropout(drop_rate)
        self.head: nn.Module = HEADS[arch.head.kind](arch, arch.num_classes)
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) at the architecture's own size -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(images))

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """The normed class token of every branch, one (B, embed_dim) each; then the taps of an ``exshortcut`` head.

        Raises ValueError for another image size.
        """
        self._check_images(images)
        if not lean.allowed(self, images):
            return self._features(images)
        pieces = lean.pieces_of(images, self._largest_bytes())
        if len(pieces) > 1 and self._reads_whole_batches():
            return self._features(images, lean=True)
        features = [self._features(piece, lean=True) for piece in pieces]
        return features[0] if len(features) == 1 else [torch.cat(parts) for parts in zip(*features)]

    def _features(self, images: Tensor, lean: bool = False) -> list[Tensor]:
        tokens, tapped, chains = self._tokens(images, lean), [], self._chains(images)
        last, has_taps = len(self.blocks) - 1, len(self.taps) > 0
        for index, encoder in enumerate(self.blocks):
            tokens = encoder(tokens, index == last, lean, chains)
            if has_taps:
                tapped += self._tapped(index, tokens)
        return self._class_features(tokens) + tapped

    def forward_head(self, features: Sequence[Tensor], pre_logits: bool = False) -> Tensor:
        """Class features -> logits (B, num_classes); ``pre_logits``: the features side by side, (B, sum of C_i)."""
        dropped = [self.head_drop(x) for x in features]
        return torch.cat(dropped, dim=1) if pre_logits else self.head(dropped)

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[list[Tensor], list[Tensor]]:
        """Patch tokens of every branch after every encoder, as timm's CrossViT gives them.

        Feature ``b * K + k`` of the list is branch b after encoder k of K, (B, C_b, rows, columns); for ``output_fmt``
        "NLC" it is (B, patches, C_b). ``indices``: the last n, or a list, answered in ascending order; ``norm`` applies
        the branch's last norm; ``stop_early`` runs no encoder after the last one asked for. Returns them alone if
        ``intermediates_only``, otherwise after the class features of ``forward_features`` (of the last encoder run).
        Raises ValueError for another image size, index or format, and for features of encoders that were pruned.
        """
        if output_fmt not in FORMATS:
            raise ValueError(f"output_fmt {output_fmt!r} is unknown; use {' or '.join(FORMATS)}")
        count, grids = len(self.arch.encoders), [branch.grid for branch in self.arch.branches]
        chosen = chosen_features(indices, count * len(grids))
        needed = encoders_of(chosen, count)
        if needed > len(self.blocks):
            raise ValueError(f"indices: {chosen} need {needed} encoders, of which {len(self.blocks)} were not pruned")
        last = needed - 1 if stop_early else len(self.blocks) - 1
        tokens, tapped, chains, found = self._tokens(images), [], self._chains(images), {}
        for k in range(last + 1):
            tokens = self.blocks[k](tokens, chains=chains)
            tapped += self._tapped(k, tokens)
            for b in range(len(grids)):
                if b * count + k in chosen:
                    kept = self.norm[b](tokens[b]) if norm else tokens[b]
                    found[b * count + k] = feature_map(kept, grids[b], output_fmt)
        intermediates = [found[index] for index in chosen]
        return intermediates if intermediates_only else (self._class_features(tokens) + tapped, intermediates)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what intermediates of these ``indices`` do not need, as timm's ``features_only`` asks; the indices.

        Features are numbered as before: ``arch`` remains that of the whole network, and ``save_weights`` refuses. The
        fusion of the last encoder that is left stays, whether or not it changes patches.
        """
        count = len(self.arch.encoders)
        chosen = chosen_features(indices, count * len(self.arch.branches))
        kept = encoders_of(chosen, count)
        self.is_pruned = True
        self.blocks = self.blocks[:kept]
        if self.residual_attention is not None:
            self.residual_attention.keep(alpha_sizes(self.arch.replace(encoders=self.arch.encoders[:kept])))
        if prune_norm:
            self.norm = nn.ModuleList(nn.Identity() for _ in self.norm)
        if prune_head:
            self.taps = nn.ModuleDict()
            self.num_features = self.head_hidden_size = sum(branch.embed_dim for branch in self.arch.branches)
            self.reset_classifier(0)
        return chosen

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """What ``forward_intermediates`` gives, for timm's ``features_only``."""
        return feature_info(self.arch)

    def get_classifier(self) -> nn.Module:
        """The module that maps class features to logits."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier for ``num_classes``, freshly initialised; ``arch`` follows.

        With 0 the network returns its class features side by side, (B, num_features). No architecture describes that:
        ``arch`` then keeps the classes of the classifier that was there, and ``save_weights`` refuses. Raises
        ValueError for less than 0, and for another ``global_pool`` than "token", which is what the paper's head reads.
        """
        if not is_count(num_classes, 0):
            raise ValueError(f"num_classes must be an integer of at least 0, got {num_classes!r}")
        check_pool(global_pool)
        if num_classes:
            self.arch = self.arch.replace(num_classes=num_classes)
        self.num_classes = num_classes
        self.head = self._new_head(num_classes).train(self.training)

    def set_input_size(self, img_size: int | Iterable[int]) -> None:
        """Read another image size from now on: position embeddings are interpolated, ``arch`` follows.

        Optimizers made before hold the old embeddings. Raises ArchError as ``positions.with_image_size``.
        """
        arch = with_image_size(self.arch, img_size)
        for index, (before, after) in enumerate(zip(self.arch.branches, arch.branches)):
            if before.grid != after.grid:
                old = getattr(self, f"pos_embed_{index}")
                resized = resize_positions(old.detach(), before.grid, after.grid)
                setattr(self, f"pos_embed_{index}", nn.Parameter(resized, requires_grad=old.requires_grad))
        for encoder in self.blocks:
            assert isinstance(encoder, MultiScaleEncoder)
            encoder.set_grids([branch.grid for branch in arch.branches])
        self.arch = arch
        self.pretrained_cfg = self.default_cfg = {**self.pretrained_cfg, "input_size": (self.in_chans, *arch.size)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: every block is computed again for the backward pass. Same gradients."""
        set_checkpointing(self, enable)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's groups of parameters, for learning rates that decay by depth: stem, one group an encoder, norms."""
        return {
            "stem": r"^cls_token|pos_embed|patch_embed",
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that timm's optimizer factory exempts from weight decay, besides biases and norms."""
        return {f"{name}_{index}" for index in range(len(self.arch.branches)) for name in ("pos_embed", "cls_token")}

    def _embed(self, index: int, images: Tensor, lean: bool) -> Tensor:
        """Class token and patches with their positions, (B, T, C)."""
        stem: Any = self.patch_embed[index]
        token, positions = getattr(self, f"cls_token_{index}"), getattr(self, f"pos_embed_{index}")
        if not lean:
            patches = stem(images)
            return torch.cat((token.expand(patches.shape[0], -1, -1), patches), dim=1) + positions
        tokens = images.new_empty(images.shape[0], *positions.shape[1:])
        tokens[:, :1] = token + positions[:, :1]
        inside_bytes = stem.inside_bytes(images) if type(stem) in STEMS.values() else 0
        shares = shares_of(images, inside_bytes)
        for share, rows in zip(shares, tokens.split([len(share) for share in shares])):
            torch.add(stem(share), positions[:, 1:], out=rows[:, 1:])
        return tokens

    def _tokens(self, images: Tensor, lean: bool = False) -> list[Tensor]:
        """What the first encoder reads, one (B, T_i, C_i) per branch."""
        self._check_images(images)
        scaled = {size: rescale(images, size) for size in {branch.size for branch in self.arch.branches}}
        return [self._embed(index, scaled[branch.size], lean) for index, branch in enumerate(self.arch.branches)]

    def _reads_whole_batches(self) -> bool:
        """Does a BatchNorm train? ``training`` does not tell: parts may differ from the whole."""
        # To look for one takes a while, and only branches with convolutions beside attention can have one.
        return any(branch.conv_path for branch in self.arch.branches) and has_batch_statistics(self)

    def _largest_bytes(self) -> int:
        """Of an image's tensors in float32: a branch's queries, keys and values, or inside of FFN, convolutions."""
        return 4 * max(
            b.num_tokens * max(3 * b.embed_dim, b.mlp_dim, b.conv_path * b.conv_dim) for b in self.arch.branches
        )

    def _chains(self, images: Tensor) -> Chains | None:
        alphas = self.residual_attention
        return None if alphas is None else Chains(self.arch, alphas, images)

    def _tapped(self, encoder: int, tokens: Sequence[Tensor]) -> list[Tensor]:
        """What the taps after an encoder make of its tokens."""
        names = {tap_name(tap): tap[1] for tap in taps_of(self.arch) if tap[0] == encoder}
        return [self.taps[name](tokens[branch]) for name, branch in names.items() if name in self.taps]

    def _class_features(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        return [norm(x[:, 0]) for norm, x in zip(self.norm, tokens)]

    def _new_head(self, num_classes: int) -> nn.Module:
        """Initialised, where the network is and in its precision."""
        if not num_classes:
            return _FeaturesSideBySide()
        head = HEADS[self.arch.head.kind](self.arch, num_classes)
        _initialise_linears(head)
        like = next(self.parameters())
        return head.to(device=like.device, dtype=like.dtype)

    def _check_images(self, images: Tensor) -> None:
        expected = (self.arch.in_channels, *self.arch.size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"images of shape {tuple(images.shape)} do not fit; this architecture reads (batch, "
                f"{', '.join(map(str, expected))}): resize them, or make a network for this size by "
                f"crossvit_core.positions.resize_model; other in_channels need another architecture"
            )


class _FeaturesSideBySide(nn.Module):
    """The head of a network without classifier."""

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """One (B, C_i) per branch -> (B, sum of C_i)."""
        return torch.cat(list(features), dim=1)


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
    stacked = encoder.fusion in ATTENTION_FUSIONS and encoder.fusion_depth > 1
    return encoder.fusion_depth if stacked else 0


def _initialise(model: CrossViT) -> None:
    """Linear weights, positions and class tokens: normal, deviation 0.02; biases: 0; convolutions: torch's default."""
    _initialise_linears(model)
    for parameter in model.parameters(recurse=False):
        nn.init.trunc_normal_(parameter, std=0.02)


def _initialise_linears(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, ExShortcutHead):
            module.reset_taps()


def check_pool(global_pool: str | None) -> None:
    """Raises ValueError for a way of pooling that timm knows and this network does not."""
    if global_pool not in (None, "", "token"):
        raise ValueError(f"global_pool {global_pool!r} is not this network's; its head reads class tokens: use 'token'")
