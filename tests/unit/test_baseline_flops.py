"""The count of any network equals torch's own to the last digit, and published figures; what it lacks is named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crossvit_core.baseline_flops import count_network
from crossvit_core.baselines import Wanted, build_baseline
from crossvit_core.cost import count_cost
from crossvit_core.presets import PRESETS

# Models of the related works that timm has, and their parameters where the reference table gives them.
PUBLISHED = {
    "resnet50+cbam": 28_073_576,
    "seresnet50": 28.09e6,
    "ecaresnet50d": 25.58e6,
    "pvt_v2_b2": 25.36e6,
    "botnet26t_256": 12.49e6,
    "lambda_resnet26t": 10.96e6,
}
RELATED = """
seresnet50t seresnet101 legacy_seresnet50 ecaresnet50t ecaresnet101d volo_d1_224 pvt_v2_b0 pvt_v2_b5 twins_pcpvt_small
deit_tiny_patch16_224 deit_small_patch16_224 deit_base_patch16_224 deit_tiny_distilled_patch16_224
deit3_small_patch16_224 botnet50ts_256 lambda_resnet26rpt_256 lambda_resnet50ts halonet26t halonet50ts mobilevit_xxs
mobilevit_xs mobilevit_s mobilevitv2_050 mvitv2_tiny vit_base_patch16_224 swin_tiny_patch4_window7_224
"""


def check_published(name: str) -> None:
    model, size = build_baseline(f"timm:{name}", Wanted())
    counted = count_network(model, size, 3)
    known = PUBLISHED[name]
    assert counted.params == known if isinstance(known, int) else round(counted.params / 1e6, 2) == known / 1e6
    assert counted.note == ""


@pytest.mark.parametrize("name", ["lambda_resnet26t", "botnet26t_256", "resnet50+cbam"])
def test_parameters_are_those_of_the_reference_table(name: str) -> None:
    check_published(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["seresnet50", "ecaresnet50d", "pvt_v2_b2"])
def test_parameters_of_the_larger_are_those_of_the_reference_table(name: str) -> None:
    check_published(name)


def equals_the_count_of_torch(name: str, wanted: Wanted) -> bool:
    model, size = build_baseline(f"timm:{name}", wanted)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(1, wanted.in_channels, *size))
    return 2 * count_network(model, size, wanted.in_channels).macs == counter.get_total_flops() > 0


@pytest.mark.parametrize(
    "name", ["resnet18+cbam", "mobilevit_xxs", "lambda_resnet26t", "test_maxvit", "test_convnext", "test_vit_relpos"]
)
def test_multiply_adds_are_those_of_torchs_own_counter(name: str) -> None:
    assert equals_the_count_of_torch(name, Wanted((64, 64), num_classes=7))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [*RELATED.split(), *PUBLISHED, "convmixer_768_32", "coat_tiny", "levit_128s", "nest_tiny"]
)
def test_every_related_work_is_counted_whole(name: str) -> None:
    model, size = build_baseline(f"timm:{name}", Wanted())
    assert count_network(model, size, 3).uncounted == ()
    assert equals_the_count_of_torch(name, Wanted())


def test_timms_crossvit_counts_as_ours_does() -> None:
    model, size = build_baseline("timm:crossvit_tiny_240", Wanted())
    ours = count_cost(PRESETS["crossvit_tiny_240"])
    counted = count_network(model.train(), size, 3)
    assert (counted.params, counted.macs, counted.note) == (ours.params, ours.macs, "")
    assert model.training


class Products(nn.Module):
    """1 + 3 x 4 x 5 products in every way that hides them from a count."""

    def __init__(self) -> None:
        super().__init__()
        self.column, self.row = nn.Parameter(torch.ones(3, 1)), nn.Parameter(torch.ones(1, 5))
        self.same = nn.Conv2d(2, 4, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        outer = self.column * self.row
        batched = torch.einsum("...ij,jk->...ik", outer.expand(4, 3, 5), outer.mT)
        summed = torch.einsum("ij->j", batched[0])
        return (torch.matmul(outer, outer.mT).sum() + summed.sum() + batched.sum() * x.sigmoid()) * self.same(x).mean()


def test_products_in_any_notation_are_counted() -> None:
    outer, batched, matmul = 3 * 5, 4 * 3 * 3 * 5, 3 * 3 * 5
    convolution = 8 * 8 * 4 * 2 * 3 * 3
    counted = count_network(Products(), (8, 8), 2)
    assert counted.note == ""
    assert counted.macs == outer + batched + matmul + convolution


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.head = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x[:, 0])[0].cumprod(1)[:, -1])


def test_what_is_not_counted_is_named() -> None:
    counted = count_network(Recurrent(), (5, 4), 1)
    assert counted.macs == 3 * 2
    assert counted.note == "count incomplete: aten::cumprod, aten::lstm"
