"""What the benchmark of translation robustness shifts, asks and resamples."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.translation_robustness import directions, outcome, shifted, similarities, with_images
from benchmarks.translation_summary import Outcome, bootstrap, group_of, summary
from crossvit_core.config import EncoderConfig
from crossvit_core.data import load_dataset
from crossvit_core.model import build_model
from crossvit_core.presets import PRESETS
from crossvit_core.residual_config import ResidualAttentionConfig
from crossvit_core.train import open_split


def test_an_image_moves_and_its_border_is_reflected() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    moved = shifted(image, 1, -2)[0, 0]
    assert torch.equal(moved[:2, 1:], image[0, 0, 2:, :3])  # right by one, up by two
    assert torch.equal(moved[:2, 0], image[0, 0, 2:, 1]) and torch.equal(moved[2, 1:], image[0, 0, 2, :3])
    assert shifted(image, 0, 0) is image


def test_a_shift_has_eight_directions() -> None:
    assert directions(0) == [(0, 0)]
    assert len(set(directions(3))) == 8 and (0, 0) not in directions(3)


def test_whole_patches_of_a_branch() -> None:
    """Of 240 px the large branch reads 224: its frame shrinks shifts, too."""
    arch = PRESETS["crossvit_tiny_240"]
    assert [group_of(size, arch) for size in (0, 8, 12, 24, 240)] == ["sl", "-", "s", "s", "sl"]
    assert [group_of(size, PRESETS["crossvit_nano_16"]) for size in (2, 4, 8)] == ["-", "s", "sl"]


def test_unshifted_images_keep_their_predictions() -> None:
    data = load_dataset("digits", image_size=(16, 16))
    model = build_model(PRESETS["crossvit_nano_16"].replace(in_channels=1))
    split = open_split(data, "val", "cpu")
    assert outcome(model, split, 0).stays.mean() == 1
    assert 0 < outcome(model, split, 4).stays.mean() < 1


def test_the_interval_holds_the_mean_and_narrows_with_images() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for count in (50, 5000):
        mean, low, high = bootstrap(rng.normal(0.1, 1.0, count))
        assert low < mean < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 5


def test_similarity_of_every_block_with_and_without_chains() -> None:
    for residual in (ResidualAttentionConfig(), ResidualAttentionConfig(where=(1,), scope="network")):
        encoders = (EncoderConfig(depths=(1, 3)), EncoderConfig(depths=(1, 3)))
        model = build_model(PRESETS["crossvit_nano_16"].replace(encoders=encoders, residual_attention=residual))
        found = similarities(model, torch.randn(2, 3, 16, 16), 1)
        assert len(found) == 6 and all(-1 / 3 <= value <= 1 for value in found)  # of four tokens


def test_the_summary_tells_less_lost_from_more_accurate() -> None:
    """Residual attention is right more often by 0.2 and loses as much; over all shifts as over each."""
    rng = np.random.default_rng(0)

    def outcomes(base: float) -> dict[int, Outcome]:
        right = {size: rng.binomial(1, base - 0.05 * size, 2000).astype(float) for size in (0, 1, 4)}
        return {size: Outcome(values, np.ones(2000)) for size, values in right.items()}

    table = summary([(outcomes(0.6), outcomes(0.8)) for _ in range(4)], PRESETS["crossvit_nano_16"])
    rows = table.set_index(["shift", "measure"])
    assert rows.loc[("0 px", "top1"), "seeds_low"] > 0.15
    for shift in ("1 px", "4 px", "whole small patches", "no whole patches", "all shifts"):
        top1, lost, same = (rows.loc[(shift, measure)] for measure in ("top1", "lost", "same"))
        assert abs(top1["difference"] - 0.2) < 0.04 and top1["images_low"] > 0.1 and top1["p"] < 0.01
        assert abs(lost["difference"]) < 0.04 and lost["seeds_low"] < 0 < lost["seeds_high"]
        assert same["difference"] == 0 and same["p"] == 1
    assert abs(rows.loc[("all shifts", "lost"), "plain"] - 0.125) < 0.03


def test_a_subset_is_drawn_from_its_split() -> None:
    data = load_dataset("digits", image_size=(16, 16))
    found = with_images(data, "train=100,test=50").splits
    assert len(set(found["train"])) == 100 and set(found["train"]) <= set(data.splits["train"])
    assert len(set(found["test"])) == 50 and set(found["test"]) <= set(data.splits["test"])
    assert np.array_equal(found["val"], data.splits["val"])
