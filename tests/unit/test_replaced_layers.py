"""Linear layers that others replace, wrap or prune are called: no cheaper form may pass over what they do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import prune

from crossvit_core.blocks import Attention, Mlp
from crossvit_core.config import FUSION_NAMES, ArchConfig, EncoderConfig
from crossvit_core.cross_attention import CrossAttentionBlock, SingleQueryAttention
from crossvit_core.fusion import reference_form
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS
from crossvit_core.residual_config import ResidualAttentionConfig

NANO = PRESETS["crossvit_nano_16"]
SITES = (Attention, Mlp, SingleQueryAttention)


def _arch(fusion: str = "cross_attention", **changes: object) -> ArchConfig:
    return NANO.replace(encoders=(EncoderConfig(depths=(1, 2), fusion=fusion, **changes),) * 2)  # type: ignore[arg-type]


ARCHS = {
    **{fusion: _arch(fusion) for fusion in FUSION_NAMES},
    "published stack": _arch(fusion_depth=2),
    "stack that keeps patches": _arch(fusion_depth=2, fusion_reading="patches"),
    "padded windows": _arch(windows=(3, 0)),
    "residual attention": _arch().replace(
        residual_attention=ResidualAttentionConfig(where=(0, 1), scope="network", fusion=True)
    ),
}
every_arch = pytest.mark.parametrize("arch", ARCHS.values(), ids=ARCHS)


class Adapted(nn.Module):
    """A layer and a correction of low rank beside it; like PEFT's it shows the weight and bias of the layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    weight = property(lambda self: self.base.weight)
    bias = property(lambda self: self.base.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """One layer that does the same."""
        self.base.weight += self.up.weight @ self.down.weight
        return self.base


def _model(arch: ArchConfig) -> CrossViT:
    """In evaluation mode and double precision, every parameter far from zero."""
    torch.manual_seed(0)
    model = build_model(arch).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def _layers(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Every linear layer of attention and FFNs: its owner and its name there."""
    owners = [module for module in model.modules() if isinstance(module, SITES)]
    return [(owner, name) for owner in owners for name, _ in owner.named_children()]


def _adapted(arch: ArchConfig) -> CrossViT:
    model = _model(arch).requires_grad_(False)
    for owner, name in _layers(model):
        setattr(owner, name, Adapted(getattr(owner, name)).double())
    return model


def _merged(model: CrossViT) -> CrossViT:
    own = copy.deepcopy(model)
    for owner, name in _layers(own):
        setattr(owner, name, getattr(owner, name).merged())
    return own


def _images() -> Tensor:
    return torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@every_arch
def test_adapters_count_in_every_form_of_the_forward_pass(arch: ArchConfig) -> None:
    adapted, images = _adapted(arch), _images()
    expected = _merged(adapted)(images).detach()
    assert (expected - _model(arch)(images)).abs().max() > 0.01
    torch.testing.assert_close(adapted(images).detach(), expected, atol=1e-9, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(adapted(images), expected, atol=1e-9, rtol=0)
        with reference_form(adapted):
            torch.testing.assert_close(adapted(images), expected, atol=1e-9, rtol=0)


@every_arch
def test_every_adapter_that_has_a_say_learns(arch: ArchConfig) -> None:
    """Of a published stack the later tokens are alone with themselves: their queries and keys do not matter."""
    model = _adapted(arch)
    model(_images()).square().sum().backward()
    silent = {name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    alone = {name for name in silent if ".1.attn.wq." in name or ".1.attn.wk." in name}
    assert silent == alone and bool(alone) is (arch is ARCHS["published stack"])


@every_arch
@pytest.mark.filterwarnings("ignore:.*deprecated")  # torch parts with its quantisation
def test_layers_quantised_by_torch_are_called(arch: ArchConfig) -> None:
    model, images = _model(arch).float(), _images().float()
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        expected, got = model(images), quantised(images)
    assert 0 < (got - expected).std() < 0.1 * expected.std()


@pytest.mark.parametrize("name", ["cross_attention", "class_token", "padded windows"])
def test_pruned_layers_are_trained_behind_their_masks(name: str) -> None:
    """torch computes a pruned weight anew whenever its layer is called."""
    model = _model(ARCHS[name]).train()
    for owner, layer in _layers(model):
        prune.l1_unstructured(getattr(owner, layer), "weight", amount=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model(_images()).square().sum().backward()
        optimizer.step()
    got = model(_images()).detach()
    for owner, layer in _layers(model):
        prune.remove(getattr(owner, layer), "weight")
    torch.testing.assert_close(model(_images()).detach(), got, atol=1e-9, rtol=0)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("name", ["cross_attention", "padded windows"])
def test_adapters_leave_one_graph(name: str) -> None:
    model = _adapted(ARCHS[name])
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(_images()), model(_images()))


class Wrapped(nn.Module):
    """Calls what it wraps, and shows nothing of it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.inner(*args, **options)


CONV = NANO.replace(branches=tuple(replace(branch, stem="conv") for branch in NANO.branches))
DEEP_FUSION = _arch(fusion_depth=2)
REDUCTION = NANO.replace(branches=tuple(replace(branch, stem="reduction") for branch in NANO.branches))


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        (NANO, "blocks.0.blocks.1.0.mlp"),
        (NANO, "blocks.0.fusion.0.attn"),
        (DEEP_FUSION, "blocks.0.fusion.0.1.attn"),
        (NANO, "patch_embed.0"),
        (CONV, "patch_embed.0.proj"),
        (CONV, "patch_embed.0.proj.0"),
        (CONV, "patch_embed.0.proj.2"),
        (REDUCTION, "patch_embed.0.pyramid"),
        (REDUCTION, "patch_embed.0.pyramid.convs.0"),
    ],
)
def test_wrapped_parts_are_called_with_and_without_gradients(arch: ArchConfig, name: str) -> None:
    model, images = _model(arch), _images()
    expected = model(images).detach()
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, Wrapped(model.get_submodule(name)))
    torch.testing.assert_close(model(images).detach(), expected)
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected)


def _hook(layer: nn.Module) -> None:
    layer.register_forward_hook(lambda module, args, out: out * 0)


def _patch(layer: nn.Module) -> None:
    layer.forward = lambda x: nn.functional.linear(x, layer.weight, layer.bias) * 0  # type: ignore[method-assign]


@pytest.mark.parametrize("silence", [_hook, _patch])
def test_hooks_and_patched_calls_of_keys_and_values_count(silence: Callable[[nn.Module], None]) -> None:
    model, images = _model(NANO), _images()
    values = model.get_submodule("blocks.0.fusion.0.attn.wv")
    expected_model = copy.deepcopy(model)
    zeroed = expected_model.get_submodule("blocks.0.fusion.0.attn.wv")
    with torch.no_grad():
        zeroed.weight.zero_()
        zeroed.bias.zero_()
    silence(values)
    expected = expected_model(images).detach()
    torch.testing.assert_close(model(images).detach(), expected)
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected)


def test_a_hook_on_all_modules_sees_every_layer() -> None:
    model, images = _model(NANO), _images()
    seen: list[nn.Module] = []
    hook = register_module_forward_hook(lambda module, args, out: seen.append(module))
    try:
        with torch.no_grad():
            model(images)
    finally:
        hook.remove()
    linear = {module for module in model.modules() if isinstance(module, nn.Linear)}
    assert linear == {module for module in seen if isinstance(module, nn.Linear)}


def test_a_norm_replaced_by_nothing_leaves_the_tokens_alone() -> None:
    branches = tuple(replace(branch, embed_dim=16) for branch in NANO.branches)
    arch = NANO.replace(branches=branches, encoders=(EncoderConfig(depths=(1, 1), identity_maps=True),) * 2)
    model, images = _model(arch), _images()
    for module in model.modules():
        if isinstance(module, CrossAttentionBlock):
            module.norm1 = nn.Identity()  # type: ignore[assignment]
    expected = model(images).detach()
    with torch.no_grad():
        torch.testing.assert_close(model(images), expected)
