"""What the reference studies are made with: the networks to beat, the part of the data, the loops to compare with."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.cifar_study.networks import chosen_networks, plain_vit
from benchmarks.cifar_study.shortcuts import kendall
from benchmarks.cifar_study.subset import write_subset
from benchmarks.training_speed import measure
from crossvit_core.cost import count_cost
from crossvit_core.data import load_dataset
from search.enqueue import load_arch
from space import load_space


def _write_pictures(folder: Path, images: int) -> None:
    """``images`` one-coloured PNGs of 4 px of three classes in turn; the colour says which one it is."""
    encoded = []
    for index in range(images):
        memory = io.BytesIO()
        Image.new("RGB", (4, 4), (index, 0, index % 3)).save(memory, "png")
        encoded.append({"bytes": memory.getvalue()})
    for split in ("train", "test"):
        table = pa.table({"image": encoded, "label": [index % 3 for index in range(images)]})
        pq.write_table(table, folder / f"{split}.parquet")


def test_a_subset_has_as_many_of_each_class_and_no_image_twice(tmp_path: Path) -> None:
    _write_pictures(tmp_path, 90)
    write_subset(tmp_path, tmp_path / "part", train=12, val=6)
    data = load_dataset(str(tmp_path / "part"))
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 12, "val": 6, "test": 90}
    seen = {name: {int(data.images[row, 0, 0, 0]) for row in data.splits[name]} for name in ("train", "val")}
    assert seen == {"train": set(range(12)), "val": set(range(12, 18))}


@pytest.mark.parametrize(("train", "val", "says"), [(10, 3, "use 9"), (87, 6, "30 exist")])
def test_a_subset_that_cannot_be_says_why(tmp_path: Path, train: int, val: int, says: str) -> None:
    _write_pictures(tmp_path, 90)
    with pytest.raises(ValueError, match=says):
        write_subset(tmp_path, tmp_path / "part", train, val)


RECORDER = """#!{python}
import json, sys
with open({path!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cifar_study" / "run.sh"


@pytest.mark.parametrize("scale", ["cpu", "cpu-all", "gpu"])
def test_every_step_asks_for_what_there_is(scale: str, tmp_path: Path) -> None:
    """The script runs whole, but for the commands, whose words are looked at: the last would come after hours."""
    recorder, asked = tmp_path / "crossvit", tmp_path / "asked"
    recorder.write_text(RECORDER.format(python=sys.executable, path=str(asked)), encoding="utf-8")
    recorder.chmod(0o755)
    for made in ("cifar10-subset", "cifar10-all"):
        (tmp_path / "runs" / made).mkdir(parents=True)
    tools = {"PYTHON": sys.executable, "CROSSVIT": str(recorder)}
    environment = {
        **os.environ,
        **tools,
        "RUNS": str(tmp_path / "runs"),
        "PRESETS": "s=cifar-cpu-all:13 l=cifar-cpu-large:0",
    }
    subprocess.run(["sh", str(SCRIPT), scale, str(tmp_path)], env=environment, check=True, stdout=subprocess.DEVNULL)
    commands = [json.loads(line) for line in asked.read_text(encoding="utf-8").splitlines()]
    assert {"search", "bench", "ablate", "retrain"} <= {words[0] for words in commands}
    for command, *words in commands:
        options = dict(pairwise(words))
        if "--space" in options:
            load_space(options["--space"])
        for network in options.get("--baselines", "").split(",") if command == "bench" else ():
            if ":" not in network:  # not a trial
                load_arch(network, tmp_path).check()
        if command == "ablate":
            base = load_arch(options["--base"], tmp_path)
            assert load_space(options["--space"]).space.validate(base) == []


def test_networks_to_beat_keep_the_limit_and_the_proportions() -> None:
    networks = chosen_networks(200e6)
    assert len(networks) == 3 * 5 + 7
    for name, arch in networks.items():
        assert not arch.violations(), name
        assert count_cost(arch).macs <= 200e6
        if name.startswith("family"):
            small, large = arch.branches
            assert large.embed_dim == 2 * small.embed_dim
    assert 6.2e6 < count_cost(plain_vit(384)).params < 6.4e6


def test_the_three_training_loops_train_alike() -> None:
    """The same losses, from code that shares nothing but the network and the recipe."""
    options = argparse.Namespace(epochs=3, batch_size=32, seed=0, device="cpu")
    data = load_dataset("digits", image_size=16, limit=180)
    ours, plain, timms = measure("crossvit_nano_16", data, augmented=False, options=options)
    assert ours.first_epoch_loss_difference == 0
    for other in (plain, timms):
        assert other.first_epoch_loss_difference is not None
        assert other.first_epoch_loss_difference < 1e-4


def test_the_interval_of_kendalls_tau_covers_what_it_says() -> None:
    """Pairs of correlated normal variables, whose tau is known: 2 / pi * asin(correlation)."""
    rng, covered, runs = np.random.default_rng(0), 0, 120
    truth = 2 / np.pi * np.arcsin(0.7)
    for _ in range(runs):
        a = rng.normal(size=24)
        tau, low, high = kendall(a, 0.7 * a + np.sqrt(1 - 0.7**2) * rng.normal(size=24))
        assert low < tau < high
        covered += low < truth < high
    assert 0.90 <= covered / runs <= 0.99


def test_what_hangs_on_one_pair_has_no_interval() -> None:
    rising = list(range(10))
    assert np.isnan(kendall(rising, [1.0] * 10)).all()
    tau, low, high = kendall(rising, [1.0] * 9 + [2.0])
    assert tau > 0
    assert np.isnan([low, high]).all()
