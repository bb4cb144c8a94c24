"""What is said about an architecture that cannot be, and what its key folds away."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from crossvit_core.config import (
    ArchConfig,
    ArchError,
    BranchConfig,
    EncoderConfig,
    HeadConfig,
    ResidualAttentionConfig,
)
from crossvit_core.cost import count_cost
from crossvit_core.presets import PRESETS

NANO = PRESETS["crossvit_nano_16"]


def _branch(**changes: Any) -> ArchConfig:
    return NANO.replace(branches=(replace(NANO.branches[0], **changes), NANO.branches[1]))


def _encoder(**changes: Any) -> ArchConfig:
    return NANO.replace(encoders=(replace(NANO.encoders[0], **changes),))


# What is wrong, and the whole of what is said about it.
WRONG: list[tuple[ArchConfig, str]] = [
    (
        _branch(patch_size=3),
        "branch 0: patch_size 3 does not tile image_size 16; use a side of 15 or 18, or patch_size 2 or 4",
    ),
    (_branch(patch_size=20), "branch 0: patch_size 20 does not tile image_size 16; use a side of 20, or patch_size 16"),
    (
        _branch(image_size=(18, 16)),
        "branch 0: patch_size 4 does not tile image_size 18; use a side of 16 or 20, or patch_size 3 or 6",
    ),
    (_branch(image_size=0), "branch 0: image_size (0, 0) is not positive; use at least (1, 1)"),
    (_branch(num_heads=3), "branch 0: embed_dim 16 is not divisible by num_heads 3; use 15 or 18, or num_heads 2 or 4"),
    (_branch(num_heads=32), "branch 0: embed_dim 16 is not divisible by num_heads 32; use 32, or num_heads 16"),
    (_branch(num_heads=True), "branch 0: num_heads must be an integer of at least 1, got True; use 1"),
    (_branch(embed_dim=0), "branch 0: embed_dim must be an integer of at least 1, got 0; use 1"),
    (_branch(embed_dim=15.6), "branch 0: embed_dim must be an integer of at least 1, got 15.6; use 16"),
    (_branch(embed_dim="16"), "branch 0: embed_dim must be an integer of at least 1, got '16'; use 16"),
    (_branch(patch_size=None), "branch 0: patch_size must be an integer of at least 1, got None; use 1"),
    (_branch(mlp_ratio=0.01), "branch 0: mlp_ratio 0.01 gives no hidden width; use at least 0.0625"),
    (_branch(mlp_ratio=-2), "branch 0: mlp_ratio -2.0 gives no hidden width; use at least 0.0625"),
    (_branch(mlp_ratio="four"), "branch 0: mlp_ratio must be a finite number, got 'four'; use one such as 4"),
    (_branch(mlp_ratio=True), "branch 0: mlp_ratio must be a finite number, got True; use one such as 4"),
    (_branch(mlp_ratio=float("nan")), "branch 0: mlp_ratio must be a finite number, got nan; use one such as 4"),
    (_branch(mlp_ratio=float("inf")), "branch 0: mlp_ratio must be a finite number, got inf; use one such as 4"),
    (_branch(stem="convs"), "branch 0: stem 'convs' is unknown; did you mean 'conv'? known: conv, linear, reduction"),
    (
        _branch(stem="conv", patch_size=5, image_size=15),
        "branch 0: the conv stem needs a patch_size of 2^a*3^b, got 5; use 4 or 6",
    ),
    (
        _branch(stem="conv", embed_dim=2),
        "branch 0: the conv stem needs embed_dim of at least 4, got 2; use 4",
    ),
    (
        _encoder(fusion="crossattention"),
        "encoder 0: fusion 'crossattention' is unknown; did you mean 'cross_attention'? "
        "known: all_attention, class_token, cross_attention, none, pairwise",
    ),
    (
        _encoder(fusion_reading=None),
        "encoder 0: fusion_reading None is unknown; known: patches, published",
    ),
    (_encoder(fusion_depth=0), "encoder 0: fusion_depth must be an integer of at least 1, got 0; use 1"),
    (_encoder(fusion_depth="1"), "encoder 0: fusion_depth must be an integer of at least 1, got '1'; use 1"),
    (_encoder(identity_maps="no"), "encoder 0: identity_maps must be true or false, got 'no'; use false"),
    (_encoder(depths=(1, 1, 1)), "encoder 0: depths [1, 1, 1] has 3 entries for 2 branches; give one per branch"),
    (_encoder(depths=()), "encoder 0: depths [] has 0 entries for 2 branches; give one per branch"),
    (_encoder(depths=(1, -1)), "encoder 0: depths.1 must be an integer of at least 0, got -1; use 0"),
    (_encoder(depths=(1.0, 1)), "encoder 0: depths.0 must be an integer of at least 0, got 1.0; use 1"),
    (_encoder(depths=(False, 1)), "encoder 0: depths.0 must be an integer of at least 0, got False; use 0"),
    (
        NANO.replace(branches=NANO.branches[:1], encoders=(EncoderConfig(depths=(2,)),)),
        "encoder 0: fusion 'cross_attention' needs two branches, there is one; use 'none'",
    ),
    (NANO.replace(encoders=()), "encoders is empty; a network needs at least one"),
    (
        NANO.replace(branches=(), encoders=(EncoderConfig(depths=()),)),
        "branches is empty; a network needs at least one",
    ),
    (
        NANO.replace(encoders=({"depths": [1, 1]},)),
        "encoder 0 must be EncoderConfig, got {'depths': [1, 1]}; ArchConfig.from_dict makes it of plain data",
    ),
    (
        NANO.replace(head="class_token"),
        "head must be HeadConfig, got 'class_token'; ArchConfig.from_dict makes it of plain data",
    ),
    (
        NANO.replace(head=HeadConfig(kind="mean")),
        "head.kind 'mean' is unknown; known: class_token, exshortcut",
    ),
    (NANO.replace(num_classes=0), "num_classes must be an integer of at least 1, got 0; use 1"),
    (NANO.replace(in_channels=3.4), "in_channels must be an integer of at least 1, got 3.4; use 3"),
    (NANO.replace(image_size=(16, -4)), "image_size (16, -4) is not positive; use at least (16, 1)"),
]


@pytest.mark.parametrize(("arch", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_is_wrong_and_the_way_out(arch: ArchConfig, message: str) -> None:
    assert arch.violations() == [message]
    with pytest.raises(ArchError, match=re.escape(message)):
        count_cost(arch)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", True, "image_size True is not a number of pixels; use an int or [height, width]"),
        ("image_size", 16.0, "image_size 16.0 is not a size; use an int, such as 16, or [height, width]"),
        ("image_size", "240", "image_size '240' is not a size; use an int, such as 240, or [height, width]"),
        ("image_size", "big", "image_size 'big' is not a size; use an int or [height, width]"),
        ("image_size", [16, 16, 3], "image_size [16, 16, 3] is not a size; use an int or [height, width]"),
        ("depths", 4, "depths must be a list, got 4; use [1, 4]: the blocks of every branch"),
        ("depths", "14", "depths must be a list, got '14'; use [1, 4]: the blocks of every branch"),
        ("branches", 2, "branches must be a list, got 2; use a list of BranchConfig"),
        ("encoders", NANO.encoders[0].__dict__, "use a list of EncoderConfig"),
    ],
)
def test_what_no_field_can_hold(field: str, value: Any, message: str) -> None:
    change = _encoder if field == "depths" else NANO.replace
    with pytest.raises(ArchError, match=re.escape(message)):
        change(**{field: value})


def test_a_width_can_always_have_the_ratio_that_is_offered() -> None:
    for width in range(1, 300):
        [message] = _branch(embed_dim=width, num_heads=1, mlp_ratio=0).violations()
        offered = float(message.rpartition(" ")[2])
        assert _branch(embed_dim=width, num_heads=1, mlp_ratio=offered).violations() == []


def test_encoders_and_branches_without_blocks_are_architectures() -> None:
    """N, M or both may be 0: the search reaches them, and the key folds what they leave undone."""
    for depths in ((0, 2), (2, 0), (0, 0)):
        assert _encoder(depths=depths).violations() == []


def test_all_violations_are_told_at_once() -> None:
    arch = _branch(patch_size=3).replace(num_classes=0)
    assert len(arch.violations()) == 2


def test_an_unknown_field_is_named_with_the_nearest() -> None:
    data = NANO.to_dict()
    data["branches"][1]["embed_dims"] = 32
    with pytest.raises(ArchError, match=r"branches\.1: unknown field 'embed_dims'; did you mean 'embed_dim'\?"):
        ArchConfig.from_dict(data)


def test_a_missing_field_is_named() -> None:
    data = NANO.to_dict()
    del data["branches"][0]["patch_size"]
    with pytest.raises(ArchError, match=r"branches\.0: field 'patch_size' is missing"):
        ArchConfig.from_dict(data)


@pytest.mark.parametrize(
    "same",
    [
        _encoder(fusion_reading="patches"),
        _encoder(identity_maps=True),
        NANO.replace(encoders=(EncoderConfig(depths=(1, 0), fusion="none"), EncoderConfig(depths=(0, 1)))),
        NANO.replace(residual_attention=ResidualAttentionConfig(alpha_init=0.9, scope="network", alpha_param="head")),
        NANO.replace(head=HeadConfig(mu=0.5, taps=((0, 1),), pool="both")),
        _branch(mlp_ratio=NANO.branches[0].mlp_ratio + 0.01),
    ],
)
def test_descriptions_of_one_network_have_one_key(same: ArchConfig) -> None:
    assert same != NANO and same.key() == NANO.key()


@pytest.mark.parametrize(
    "other",
    [_branch(stem="conv"), _encoder(fusion_depth=2), _encoder(fusion="none"), NANO.replace(image_size=20)],
)
def test_different_networks_have_different_keys(other: ArchConfig) -> None:
    assert other.key() != NANO.key()


def test_maps_between_equal_widths_that_never_meet_are_all_the_same() -> None:
    """Cross-attention goes round: of four branches the first and third exchange nothing."""

    def key(widths: tuple[int, ...], identity_maps: bool) -> str:
        branches = tuple(replace(NANO.branches[0], embed_dim=width) for width in widths)
        encoder = EncoderConfig(depths=(1,) * len(widths), identity_maps=identity_maps)
        return NANO.replace(branches=branches, encoders=(encoder,)).key()

    assert key((8, 16, 8, 24), True) == key((8, 16, 8, 24), False)
    assert key((8, 16, 24, 8), True) != key((8, 16, 24, 8), False)


def test_presets_can_be_built_and_differ() -> None:
    assert all(not arch.violations() for arch in PRESETS.values())
    assert len({arch.key() for arch in PRESETS.values()}) == len(PRESETS)


def test_a_branch_knows_its_tokens() -> None:
    branch = BranchConfig(image_size=(24, 36), patch_size=12, embed_dim=8, num_heads=1, mlp_ratio=2.5)
    assert (branch.grid, branch.num_patches, branch.num_tokens, branch.mlp_dim) == ((2, 3), 6, 7, 20)


def test_describing_and_counting_need_no_torch() -> None:
    code = (
        "import sys; from crossvit_core.cost import count_cost; from crossvit_core.presets import PRESETS; "
        "count_cost(PRESETS['crossvit_nano_16']); print({'torch', 'timm', 'ray', 'numpy'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize("changes", [{"embed_dim": 0}, {"mlp_ratio": None}, {"mlp_ratio": math.inf}])
def test_what_cannot_be_built_has_a_key_all_the_same(changes: dict[str, Any]) -> None:
    base = PRESETS["crossvit_micro_16"]
    arch = base.replace(branches=(replace(base.branches[0], **changes), base.branches[1]))
    assert arch.violations()
    assert arch.key() != base.key()
