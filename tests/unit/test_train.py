"""Training one candidate on the embedded digits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from crossvit_core import PRESETS
from crossvit_core.augment import AUGMENTATIONS
from crossvit_core.checkpoint import CheckpointFolder
from crossvit_core.data import ImageData, load_dataset
from crossvit_core.device_lock import DeviceLock
from crossvit_core.model import CrossViT, build_model
from crossvit_core.recipe import AUGMENT_NAMES, RecipeError, TrainRecipe
from crossvit_core.train import DivergedError, EpochResult, open_split, score, train_model

ARCH = PRESETS["crossvit_nano_16"].replace(in_channels=1)
SHORT = TrainRecipe(epochs=2)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_dataset("digits", image_size=(16, 16))


def make_model(seed: int = 0, **options: float) -> CrossViT:
    torch.manual_seed(seed)
    return build_model(ARCH, **options)


def train(data: ImageData, recipe: TrainRecipe, seed: int = 0) -> tuple[CrossViT, list[EpochResult]]:
    model = make_model(seed, drop_path_rate=recipe.drop_path)
    return model, list(train_model(model, data, recipe, seed=seed))


def test_it_learns(digits: ImageData) -> None:
    _, epochs = train(digits, TrainRecipe(epochs=20))
    assert [epoch.epoch for epoch in epochs] == list(range(1, 21))
    assert epochs[-1].val_accuracy > 0.9
    assert epochs[-1].train_loss < epochs[0].train_loss / 2
    assert epochs[-1].lr < 1e-6 + 0.01 * 2e-3


@pytest.mark.parametrize(
    "recipe",
    [SHORT, TrainRecipe(epochs=2, mixup=0.5, drop_path=0.2, augment="shift_flip", clip_grad=1.0, ema_decay=0.9)],
    ids=["plain", "everything"],
)
def test_a_seed_reproduces_bit_for_bit(digits: ImageData, recipe: TrainRecipe) -> None:
    first, first_epochs = train(digits, recipe, seed=3)
    torch.rand(7)
    second, second_epochs = train(digits, recipe, seed=3)
    for (name, a), b in zip(first.state_dict().items(), second.state_dict().values()):
        assert torch.equal(a, b), name
    numbers = [(e.train_loss, e.val_loss, e.val_accuracy) for e in first_epochs]
    assert numbers == [(e.train_loss, e.val_loss, e.val_accuracy) for e in second_epochs]
    other, _ = train(digits, recipe, seed=4)
    assert not torch.equal(other.head[1].weight, first.head[1].weight)


def test_the_score_is_the_share_of_right_answers(digits: ImageData) -> None:
    model = make_model()
    val = open_split(digits, "val", "cpu")
    loss, accuracy = score(model, val, device="cpu")
    images, labels = val.batch(val.rows)
    with torch.inference_mode():
        logits = model.eval()(images)
    assert accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_training_never_reads_the_test_split(digits: ImageData) -> None:
    """With the test rows' pixels and labels scrambled, nothing changes."""
    images, labels = digits.images.copy(), digits.labels.copy()
    images[digits.splits["test"]] = 255 - images[digits.splits["test"]]
    labels[digits.splits["test"]] = 0
    scrambled = dataclasses.replace(digits, images=images, labels=labels)
    _, expected = train(digits, SHORT)
    _, got = train(scrambled, SHORT)
    assert [e.train_loss for e in got] == [e.train_loss for e in expected]
    assert [e.val_loss for e in got] == [e.val_loss for e in expected]


def test_averaged_weights_are_kept_when_asked(digits: ImageData) -> None:
    plain, _ = train(digits, SHORT)
    averaged, epochs = train(digits, dataclasses.replace(SHORT, ema_decay=0.9))
    assert not torch.equal(plain.head[1].weight, averaged.head[1].weight)
    loss, accuracy = score(averaged, open_split(digits, "val", "cpu"), device="cpu")
    assert (loss, accuracy) == pytest.approx((epochs[-1].val_loss, epochs[-1].val_accuracy))


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_a_trained_network_is_left_in_evaluation_mode(digits: ImageData, tmp_path: Path, ema_decay: float) -> None:
    """With averaged weights as without, and where a checkpoint has the last epoch already: its logits are settled."""
    recipe = dataclasses.replace(SHORT, drop_path=0.3, ema_decay=ema_decay)
    for _ in range(2):
        model = make_model(drop_path_rate=recipe.drop_path)
        checkpoints = CheckpointFolder(tmp_path, {"seed": 0}, every_seconds=0.0)
        list(train_model(model, digits, recipe, seed=0, checkpoints=checkpoints))
        assert not any(module.training for module in model.modules())
    assert checkpoints.notes == []


def test_divergence_is_an_error_of_its_own(digits: ImageData) -> None:
    with pytest.raises(DivergedError, match=r"the loss is .* at epoch \d"):
        train(digits, TrainRecipe(epochs=3, lr=100.0, weight_decay=100.0, label_smoothing=0.0))


def test_a_batch_larger_than_the_split_is_the_whole_split(digits: ImageData) -> None:
    _, epochs = train(digits, TrainRecipe(epochs=1, batch_size=100_000))
    assert len(epochs) == 1


def test_the_names_of_augmentations_are_those_that_there_are() -> None:
    assert set(AUGMENT_NAMES) == set(AUGMENTATIONS)


def test_an_epoch_holds_the_device_shared(digits: ImageData, tmp_path: Path) -> None:
    lock = DeviceLock("cpu", folder=tmp_path)
    model = make_model()
    for _ in train_model(model, digits, SHORT, seed=0, lock=lock):
        with lock.exclusive():
            pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "unknown training setting 'epoch'; did you mean 'epochs'"),
        ({"epochs": 0}, "epochs must be from 1"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"lr": "fast"}, "lr must be from"),
        ({"lr": True}, "lr must be from"),
        ({"augment": "shif"}, "unknown augment 'shif'; did you mean 'shift'"),
        ({"label_smoothing": 1.0}, "label_smoothing must be from 0.0 to 0.9, got 1.0"),
        ({"beta2": 1.0}, "beta2 must be from 0.5 to 0.999999, got 1.0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TrainRecipe.from_dict(settings)


def test_numbers_that_yaml_takes_for_text_are_numbers() -> None:
    assert TrainRecipe.from_dict({"lr": "1e-3", "ema_decay": "9E-1"}) == TrainRecipe(lr=0.001, ema_decay=0.9)
    with pytest.raises(RecipeError, match=r"lr must be from 1e-08 to 100\.0, got 'fast'"):
        TrainRecipe.from_dict({"lr": "fast"})


def test_the_largest_beta2_that_a_recipe_takes_is_one_that_the_optimiser_takes(digits: ImageData) -> None:
    _, epochs = train(digits, TrainRecipe(epochs=1, beta2=0.999999))
    assert len(epochs) == 1
