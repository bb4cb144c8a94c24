"""Networks with ViTAEv2's parts are trained, averaged, saved, exported and compiled like all others.

Their convolutions carry BatchNorm, whose averages are buffers: what depends on the batch, and what must not.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from crossvit_core import lean
from crossvit_core.branches import share_initial_weights
from crossvit_core.config import ArchConfig, BranchConfig, EncoderConfig
from crossvit_core.data import ImageData, load_dataset
from crossvit_core.export_torch import open_program, write_program
from crossvit_core.model import CrossViT, build_model
from crossvit_core.recipe import TrainRecipe
from crossvit_core.train import _averaged, _make_optimizer, open_split, score, train_model
from crossvit_core.weights import load_model, save_weights


def _arch(**changes: object) -> ArchConfig:
    """All three options on, windows that need padding among them."""
    shared = {"image_size": 16, "stem": "reduction", "stem_dilations": (1, 2), "conv_path": True, "conv_ratio": 1.0}
    branches = (
        BranchConfig(**{**shared, "patch_size": 4, "embed_dim": 16, "num_heads": 2, **changes}),  # type: ignore[arg-type]
        BranchConfig(**{**shared, "patch_size": 8, "embed_dim": 32, "num_heads": 2, **changes}),  # type: ignore[arg-type]
    )
    encoders = (EncoderConfig(depths=(1, 1), windows=(3, 1)), EncoderConfig(depths=(1, 1)))
    return ArchConfig(image_size=16, in_channels=1, num_classes=10, branches=branches, encoders=encoders)


_NORMS: dict[str, Callable[[CrossViT], CrossViT]] = {
    "of one process": lambda model: model,
    "across processes": nn.SyncBatchNorm.convert_sync_batchnorm,
}
either_norm = pytest.mark.parametrize("norms", _NORMS.values(), ids=_NORMS)


def _model(seed: int = 0, **rates: float) -> CrossViT:
    torch.manual_seed(seed)
    return build_model(_arch(), **rates)


def _images(batch: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_dataset("digits", image_size=(16, 16))


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_an_image_meets_its_batch_in_training_alone() -> None:
    model, images = _model(), _images(8)
    with torch.no_grad():
        together, alone = model.train()(images)[:2], model(images[:2])
        assert not torch.allclose(together, alone, atol=1e-3)
        together, alone = model.eval()(images)[:2], model(images[:2])
        torch.testing.assert_close(together, alone)


@either_norm
def test_a_training_pass_without_gradients_is_not_cut_in_pieces(norms: Callable[[CrossViT], CrossViT]) -> None:
    model, images = norms(_model()).train(), _images(4000)
    with torch.no_grad():
        without = copy.deepcopy(model)(images)
    torch.testing.assert_close(without, model(images), atol=1e-5, rtol=1e-5)


def test_norms_that_train_in_a_network_in_evaluation_see_the_whole_batch() -> None:
    """As one that has its averages computed anew: they must not be those of pieces of a batch."""
    model, images = _model().eval(), _images(4000)
    assert len(lean.pieces_of(images, model._largest_bytes())) > 1
    for module in model.modules():
        module.train(isinstance(module, nn.BatchNorm2d))
    with_gradients = copy.deepcopy(model)
    with torch.no_grad():
        logits = model(images)
    torch.testing.assert_close(logits, with_gradients(images), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(_buffers(model), _buffers(with_gradients))


def test_scoring_learns_nothing(digits: ImageData) -> None:
    model = _model()
    before = _buffers(model)
    score(model, open_split(digits, "val", "cpu"), device="cpu")
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())


def test_norms_and_biases_do_not_decay() -> None:
    model = _model()
    decayed, plain = ({id(p) for p in group["params"]} for group in _make_optimizer(model, TrainRecipe()).param_groups)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert {id(module.weight), id(module.bias)} <= plain
        if isinstance(module, nn.Conv2d):
            assert id(module.weight) in decayed and id(module.bias) in plain


def test_averaged_weights_come_with_the_statistics_of_the_last_step() -> None:
    model = _model()
    ema = _averaged(model, 0.9)
    model.train()(_images(8)).sum().backward()
    ema.update_parameters(model)
    averaged = dict(ema.module.named_buffers())
    assert averaged
    for name, buffer in model.named_buffers():
        assert torch.equal(averaged[name], buffer)
        if name.endswith("num_batches_tracked"):
            assert buffer == 1


def test_training_is_the_same_again_and_its_weights_come_back(digits: ImageData, tmp_path: Path) -> None:
    recipe = TrainRecipe(epochs=1, ema_decay=0.9, drop_path=0.1)
    runs = []
    for _ in range(2):
        model = _model(3, drop_path_rate=0.1)
        (epoch,) = train_model(model, digits, recipe, seed=3)
        runs.append((epoch.train_loss, epoch.val_loss, model.state_dict()))
    assert runs[0][:2] == runs[1][:2]
    assert all(torch.equal(a, b) for a, b in zip(runs[0][2].values(), runs[1][2].values()))
    save_weights(tmp_path / "w.safetensors", model)
    loaded = load_model(tmp_path / "w.safetensors")
    assert loaded.arch == _arch()
    assert all(torch.equal(a, b) for a, b in zip(model.eval().state_dict().values(), loaded.state_dict().values()))
    with torch.inference_mode():
        assert torch.equal(loaded(_images(5)), model(_images(5)))


def test_paired_initial_weights_reach_the_options() -> None:
    model = _model(1)
    shared = share_initial_weights(model, _arch(conv_ratio=2.0), seed=7)
    twin = _model(2)
    assert share_initial_weights(twin, _arch(conv_ratio=2.0), seed=7) == shared
    assert any("pyramid" in name for name in shared) and not any("conv_path.convs.0.weight" in name for name in shared)


@either_norm
def test_checkpointed_blocks_have_the_same_gradients_and_count_a_batch_once(
    norms: Callable[[CrossViT], CrossViT],
) -> None:
    plain, checkpointed = (norms(_model(drop_path_rate=0.3)) for _ in range(2))
    checkpointed.set_grad_checkpointing()
    for model in (plain, checkpointed):
        torch.manual_seed(5)
        model.train()(_images(8)).square().sum().backward()
    for (name, ours), theirs in zip(checkpointed.named_parameters(), plain.parameters()):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    for (name, buffer), other in zip(checkpointed.named_buffers(), plain.buffers()):
        assert torch.equal(buffer, other), name
    assert {m.momentum for m in checkpointed.modules() if hasattr(m, "momentum")} == {0.1}


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_checkpointed_blocks_have_the_same_gradients_and_count_a_batch_once() -> None:
    plain, checkpointed = _model(), _model()
    checkpointed.set_grad_checkpointing()
    compiled = torch.compile(checkpointed, fullgraph=True, backend="aot_eager")
    for forward in (plain, compiled):
        for seed in range(2):
            forward(_images(8, seed)).square().sum().backward()
    for (name, ours), theirs in zip(checkpointed.named_parameters(), plain.parameters()):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    torch.testing.assert_close(_buffers(checkpointed), _buffers(plain))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_near_single(dtype: torch.dtype) -> None:
    model, images = _model().eval(), _images(4)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", dtype=dtype):
            halved = model(images)
    assert halved.isfinite().all()
    scale = expected.std()
    assert (halved.float() - expected).abs().max() < 20 * torch.finfo(dtype).eps * scale.clamp(min=1)


@pytest.mark.slow
def test_export_holds_for_any_batch(tmp_path: Path) -> None:
    model = _model().eval()
    model.train()(_images(16))
    model.eval()
    write_program(model, tmp_path / "m.pt2", {})
    program = open_program(tmp_path / "m.pt2")
    for batch in (1, 3, 8):
        torch.testing.assert_close(program(_images(batch)), model(_images(batch)), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        strict = torch.export.export(model, (_images(2),), strict=True).module()
    torch.testing.assert_close(strict(_images(2)), model(_images(2)), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("train", [False, True])
def test_one_graph(train: bool) -> None:
    model = _model().train(train)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(_images(2)), model(_images(2)))


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_convolutions_help_where_data_is_scarce_and_where_it_is_not(share: float, digits: ImageData) -> None:
    """The sign of the paper's claim, on the digits: mean validation accuracy over seeds, plain against convolutions."""
    rows = digits.splits["train"]
    some = dataclasses.replace(digits, splits={**digits.splits, "train": rows[: int(len(rows) * share)]})
    recipe = TrainRecipe(epochs=10 if share == 1 else 30, batch_size=32)
    means = []
    for changes in ({"conv_path": False}, {"conv_path": True}):
        accuracies = []
        for seed in range(3):
            torch.manual_seed(seed)
            model = build_model(_arch(stem="linear", **changes))
            accuracies.append(list(train_model(model, some, recipe, seed=seed))[-1].val_accuracy)
        means.append(sum(accuracies) / len(accuracies))
    print(f"share {share}: plain {means[0]:.4f}, with convolutions {means[1]:.4f}")
    assert means[1] > means[0]
