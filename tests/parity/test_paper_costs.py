"""Counts equal the published ones: all models, both ablations, and forty configurations counted with fvcore on timm.

So do the multiply-adds that the exact reductions of the forward path leave.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crossvit_core.config import FUSION_NAMES, ArchConfig, BranchConfig, EncoderConfig
from crossvit_core.cost import Cost, count_cost
from crossvit_core.flops import count_activations_fvcore, count_flops_fvcore
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS

Row = dict[str, str]
PUBLISHED = tuple(name for name in PRESETS if name.endswith(("_240", "_408", "_504")))
QUICK = ("crossvit_tiny_240", "crossvit_9_dagger_240")


@pytest.fixture
def table(fixtures_dir: Path) -> Callable[[str], list[Row]]:
    """The rows of a reference table."""

    def read(name: str) -> list[Row]:
        with (fixtures_dir / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    return read


def _models(rows: list[Row]) -> dict[str, Row]:
    """Our name -> row of every CrossViT of the paper; the one at 480 pixels is in no library."""
    ours = [row for row in rows if row["family"] == "CrossViT"]
    return {row["timm_name"] or "crossvit_18_dagger_504": row for row in ours}


def _part(cost: Cost, *needles: str) -> int:
    return sum(part.macs for name, part in cost.by_module.items() if any(needle in name for needle in needles))


def _without_positions(cost: Cost) -> int:
    return cost.params - sum(part.params for name, part in cost.by_module.items() if name.startswith("pos_embed"))


def test_all_twelve_models(table: Callable[[str], list[Row]]) -> None:
    rows = _models(table("models"))
    assert sorted(rows) == sorted(PUBLISHED)
    for name, row in rows.items():
        cost = count_cost(PRESETS[name])
        assert (cost.params, cost.macs) == (int(row["exact_params"]), int(row["exact_macs"])), name
        assert _without_positions(cost) == int(row["exact_params_without_pos_embed"]), name


def test_the_printed_figures(table: Callable[[str], list[Row]]) -> None:
    for name, row in _models(table("models")).items():
        cost = count_cost(PRESETS[name])
        params = _without_positions(cost) if row["paper_params_basis"] == "without_pos_embed" else cost.params
        assert f"{params / 1e6:.1f}" == row["paper_params_m"], name
        decimals = len(row["paper_flops_g"].partition(".")[2])
        assert f"{cost.macs / 1e9:.{decimals}f}" == row["paper_flops_g"], name


def test_where_the_cost_is(table: Callable[[str], list[Row]]) -> None:
    rows = {row["model"].removesuffix(" (unregistered)"): row for row in table("cost_breakdown")}
    assert sorted(rows) == sorted(PUBLISHED)
    for name, row in rows.items():
        cost = count_cost(PRESETS[name])
        blocks = sum(int(row[f"{part}_macs"]) for part in ("attn_linear", "attn_matmul", "mlp"))
        assert _part(cost, "patch_embed") == int(row["stem_macs"])
        assert _part(cost, ".blocks.") == blocks
        assert _part(cost, "projs.", "fusion.") == int(row["fusion_macs"])
        assert _part(cost, "head.") == int(row["head_macs"])
        assert sum(part.macs for part in cost.by_module.values()) == cost.macs


def _random_arch(row: Row) -> ArchConfig:
    stem = "conv" if row["stem"] == "dagger" else "linear"
    branches = tuple(
        BranchConfig(
            image_size=int(row[f"img_{size}"]),
            patch_size=int(row[f"patch_{size}"]),
            embed_dim=int(row[f"dim_{size}"]),
            num_heads=int(row[f"heads_{size}"]),
            mlp_ratio=float(row[f"mlp_ratio_{size}"]),
            stem=stem,
        )
        for size in ("small", "large")
    )
    # The released code's depth entry 0 means one fusion block.
    encoder = EncoderConfig(depths=(int(row["N"]), int(row["M"])), fusion_depth=max(int(row["L"]), 1))
    return ArchConfig(
        image_size=int(row["img_small"]),
        num_classes=int(row["num_classes"]),
        branches=branches,
        encoders=(encoder,) * int(row["K"]),
    )


def test_forty_random_configurations(table: Callable[[str], list[Row]]) -> None:
    rows = table("complexity_random_configs")
    assert len(rows) == 40
    for row in rows:
        cost = count_cost(_random_arch(row))
        assert (cost.params, cost.macs) == (int(row["params"]), int(row["macs"])), row
        assert cost.params - _without_positions(cost) == int(row["pos_embed_params"]), row


def _fused(key: str) -> ArchConfig:
    """CrossViT-S with another fusion in every encoder."""
    base = PRESETS["crossvit_small_240"]
    return base.replace(encoders=tuple(replace(encoder, fusion=key) for encoder in base.encoders))


def test_fusion_ablation_of_table_6(table: Callable[[str], list[Row]]) -> None:
    rows = table("fusion_ablation")
    assert {row["key"] for row in rows} == set(FUSION_NAMES)
    for row in rows:
        cost = count_cost(_fused(row["key"]))
        assert (cost.params, cost.macs) == (int(row["computed_params"]), int(row["computed_macs"])), row["key"]
        assert _without_positions(cost) == int(row["computed_params_without_pos_embed"]), row["key"]
        assert f"{cost.macs / 1e9:.1f}" == row["paper_flops_g"]
        params = _without_positions(cost) if row["params_match_basis"] == "without_pos_embed" else cost.params
        printed_fits = f"{params / 1e6:.1f}" == row["paper_params_m"]
        assert printed_fits == (row["params_match"] == "True"), row["key"]


def _ablated(row: Row) -> ArchConfig:
    base = PRESETS["crossvit_small_240"]
    branches = tuple(
        replace(
            branch,
            image_size=int(row[f"img_{size}"]),
            patch_size=int(row[f"patch_{size}"]),
            embed_dim=int(row[f"dim_{size}"]),
        )
        for branch, size in zip(base.branches, ("small", "large"))
    )
    encoder = EncoderConfig(
        depths=(int(row["N"]), int(row["M"])), fusion_depth=int(row["L"]), identity_maps=row["row"] == "B"
    )
    return base.replace(branches=branches, encoders=(encoder,) * int(row["K"]))


def test_architecture_ablation_of_table_7(table: Callable[[str], list[Row]]) -> None:
    rows = table("architecture_ablation")
    assert [row["row"] for row in rows] == ["CrossViT-S", "A", "B", "C", "D", "E"]
    for row in rows:
        cost = count_cost(_ablated(row))
        assert (cost.params, cost.macs) == (int(row["computed_params"]), int(row["computed_macs"])), row["row"]
        assert _without_positions(cost) == int(row["computed_params_without_pos_embed"]), row["row"]
        assert f"{cost.macs / 1e9:.1f}" == row["paper_flops_g"]
        printed_fits = f"{_without_positions(cost) / 1e6:.1f}" == row["paper_params_m"]
        assert printed_fits == (row["params_match_without_pos_embed"] == "True"), row["row"]


def test_the_released_code_maps_between_equal_widths_too(table: Callable[[str], list[Row]]) -> None:
    for row in table("architecture_ablation"):
        arch = _ablated(row)
        always = arch.replace(encoders=tuple(replace(encoder, identity_maps=False) for encoder in arch.encoders))
        assert count_cost(always).params == int(row["computed_params_as_published_code"]), row["row"]


def test_one_query_saves_what_the_table_of_reductions_says(table: Callable[[str], list[Row]]) -> None:
    rows = {row["model"].removesuffix(" (unregistered)"): row for row in table("cost_reductions")}
    assert sorted(rows) == sorted(PUBLISHED)
    for name, row in rows.items():
        cost = count_cost(PRESETS[name])
        assert _part(cost, "projs.", "fusion.") == int(row["fusion_macs_direct"]), name
        assert _executed_part(cost, "projs.", "fusion.") == int(row["fusion_macs_absorbed"]), name
        saved = cost.macs - cost.executed_macs
        assert saved == int(row["saving_macs"]), name
        assert f"{100 * saved / cost.macs:.3f}" == row["saving_percent_of_total"], name


def test_the_readme_quotes_both_counts() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    cost = count_cost(PRESETS["crossvit_small_240"])
    rows = re.findall(r"`count_cost\(arch\)\.(\w+)` .* \| ([\d,]+) \|", readme)
    assert rows == [("macs", f"{cost.macs:,}"), ("executed_macs", f"{cost.executed_macs:,}")]


def _executed_part(cost: Cost, *needles: str) -> int:
    return sum(part.executed_macs for name, part in cost.by_module.items() if any(n in name for n in needles))


def test_class_rows_save_what_the_table_of_reductions_says(table: Callable[[str], list[Row]]) -> None:
    """The table also takes keys and values from the last self-attention of class rows; ``forward`` computes those."""
    rows = table("cost_reductions_other_fusions")
    assert {row["fusion"].split()[0] for row in rows} == set(FUSION_NAMES) - {"cross_attention"}
    for row in rows:
        fusion = row["fusion"].split()[0]
        cost = count_cost(_fused(fusion))
        assert cost.macs == int(row["macs"]), fusion
        kept = cost.macs - cost.executed_macs + _keys_and_values_of_class_rows(fusion)
        assert kept == int(row["saving_macs"]), fusion


def _keys_and_values_of_class_rows(fusion: str) -> int:
    """What leaving out keys and values would save in the last attention, asked by few queries, of CrossViT-S."""
    branches = PRESETS["crossvit_small_240"].branches
    small, large = ((branch.num_tokens, branch.embed_dim, branch.num_heads) for branch in branches)
    if fusion == "all_attention":
        return _saved_by_absorbing(2, small[0] + large[0], *large[1:])
    return _saved_by_absorbing(1, *small) + _saved_by_absorbing(1, *large)


def _saved_by_absorbing(queries: int, tokens: int, width: int, heads: int) -> int:
    keys_and_values = 2 * tokens * width**2 + 2 * queries * tokens * width
    return keys_and_values - 2 * queries * width**2 - 2 * queries * tokens * heads * width


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED if name not in QUICK)]
)
def test_fvcore_counts_the_same(table: Callable[[str], list[Row]], name: str) -> None:
    with torch.device("meta"):
        model = build_model(PRESETS[name])
    model.to_empty(device="cpu")
    cost, counted = count_cost(PRESETS[name]), count_flops_fvcore(model)
    assert counted["macs"] == cost.macs == int(_models(table("models"))[name]["exact_macs"])
    assert counted["conv"] == _part(cost, "patch_embed")
    assert count_flops_fvcore(model, reference=False)["macs"] == cost.executed_macs
    assert count_activations_fvcore(model) == cost.activations
