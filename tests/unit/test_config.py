"""What is said about an architecture that cannot be, and what its key folds away."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from crossvit_core.config import ArchConfig, ArchError, BranchConfig, EncoderConfig
from crossvit_core.cost import count_cost
from crossvit_core.presets import PRESETS

NANO = PRESETS["crossvit_nano_16"]


def _branch(**changes: Any) -> ArchConfig:
    return NANO.replace(branches=(replace(NANO.branches[0], **changes), NANO.branches[1]))


def _encoder(**changes: Any) -> ArchConfig:
    return NANO.replace(encoders=(replace(NANO.encoders[0], **changes),))


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (_branch(patch_size=3), "branch 0: patch_size 3 does not tile image_size 16; use a side of 15 or 18"),
        (_branch(num_heads=3), "branch 0: embed_dim 16 is not divisible by num_heads 3; use 15 or 18"),
        (_branch(embed_dim=0), "branch 0: embed_dim must be an integer of at least 1, got 0"),
        (_branch(mlp_ratio=0.01), "branch 0: mlp_ratio 0.01 gives no hidden width; use at least 0.0625"),
        (_branch(stem="convs"), "branch 0: stem 'convs' is unknown; did you mean 'conv'?"),
        (
            _branch(stem="conv", patch_size=5, image_size=15),
            "branch 0: the conv stem needs a patch_size of 2^a*3^b, got 5; use 4 or 6",
        ),
        (_encoder(fusion="crossattention"), "encoder 0: fusion 'crossattention' is unknown; did you mean"),
        (
            _encoder(depths=(1, 1, 1)),
            "encoder 0: depths [1, 1, 1] has 3 entries for 2 branches; give one per branch",
        ),
        (_encoder(depths=(1, -1)), "encoder 0: depths.1 must be an integer of at least 0, got -1"),
        (_encoder(fusion_depth=0), "encoder 0: fusion_depth must be an integer of at least 1, got 0"),
        (
            NANO.replace(branches=NANO.branches[:1], encoders=(EncoderConfig(depths=(2,)),)),
            "encoder 0: fusion 'cross_attention' needs two branches, there is one; use 'none'",
        ),
        (NANO.replace(encoders=()), "encoders is empty; a network needs at least one"),
        (NANO.replace(num_classes=0), "num_classes must be an integer of at least 1, got 0"),
    ],
)
def test_what_is_wrong_and_the_way_out(arch: ArchConfig, message: str) -> None:
    with pytest.raises(ArchError, match=re.escape(message)):
        count_cost(arch)


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
