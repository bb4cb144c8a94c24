"""What each part of MPTQ-ViT does for a CrossViT: base, SQ-b, OPT-m, both, and Greedy MP, over paired seeds.

Trains one small network per seed, quantises it with and without each part at 8 to 3 bits, and by Greedy MP at the mean
bits of each of those, and says which of the orders that were expected hold: base <= {SQ-b, OPT-m} <= both at 4 bits,
and single <= mixed precision at equal mean bits. Nothing is tuned to make them hold. What is measured is appended to
``<out>/table.csv`` at once; the same command goes on where it was. ``--data`` is ``digits`` or any other dataset.

    python benchmarks/quantization_study.py --out results/reference/quantization/digits
    python benchmarks/quantization_study.py --data path/to/cifar10 --out results/reference/quantization/cifar10_subset \
        --preset crossvit_nano_32 --split 5000,2000 --epochs 15 --augment shift_flip --label CIFAR-10
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from crossvit_core.artefact import versions
from crossvit_core.cost import count_cost
from crossvit_core.data import ImageData, load_dataset
from crossvit_core.device_info import device_name
from crossvit_core.model import CrossViT, build_model
from crossvit_core.presets import PRESETS
from crossvit_core.quantize.mixed import greedy
from crossvit_core.recipe import TrainRecipe
from crossvit_core.train import train_model
from crossvit_core.weights import load_model, save_weights
from results.units import human_count
from search.quantizing import Measurement, Request

METHODS = ("base", "smoothquant", "sqb", "hand", "optm", "sqb_optm")
MIXED = "sqb_optm, greedy"
MIXED_BITS = (5, 4, 3)
COLUMNS = (
    "seed",
    "method",
    "bits",
    "val_accuracy",
    "kl",
    "weight_bits",
    "activation_bits",
    "mean_bits",
    "model_bytes",
    "bit_operations",
)
ORDERS = (
    ("base", "sqb", 4),
    ("base", "optm", 4),
    ("sqb", "sqb_optm", 4),
    ("optm", "sqb_optm", 4),
    ("hand", "optm", 4),
    ("base", "sqb", 3),
    ("base", "optm", 3),
    ("sqb", "sqb_optm", 3),
    ("optm", "sqb_optm", 3),
    ("hand", "optm", 3),
    ("sqb_optm", MIXED, 5),
    ("sqb_optm", MIXED, 4),
    ("sqb_optm", MIXED, 3),
)
"""Method that should do no better, method that should do no worse, bits."""


def with_split(data: ImageData, asked: str | None) -> ImageData:
    """The data with so many training and validation images, drawn anew from those two splits; test is not touched."""
    if asked is None:
        return data
    num_train, num_val = (int(text) for text in asked.split(","))
    rows = np.random.default_rng(0).permutation(np.concatenate([data.splits["train"], data.splits["val"]]))
    if num_train + num_val > len(rows):
        raise SystemExit(
            f"{num_train} + {num_val} images are more than the {len(rows)} there are to train and validate"
        )
    chosen = {"train": np.sort(rows[:num_train]), "val": np.sort(rows[num_train : num_train + num_val])}
    return dataclasses.replace(data, splits={**data.splits, **chosen}, cache_path=None)


def trained_network(asked: argparse.Namespace, data: ImageData, seed: int) -> CrossViT:
    """Trained once per seed; the weights lie beside the table until it is done."""
    path = asked.work / f"seed{seed}.safetensors"
    if path.is_file():
        return load_model(path)
    arch = PRESETS[asked.preset].replace(in_channels=data.in_channels, num_classes=data.num_classes)
    torch.manual_seed(seed)
    model = build_model(arch)
    recipe = TrainRecipe(epochs=asked.epochs, batch_size=asked.batch_size, lr=asked.lr, augment=asked.augment)
    for epoch in train_model(model, data, recipe, seed=seed):
        print(f"seed {seed}, epoch {epoch.epoch}: {epoch.val_accuracy:.1%}", flush=True)
    asked.work.mkdir(parents=True, exist_ok=True)
    save_weights(path, model)
    return model


def measure(
    work: Measurement, seed: int, bits: tuple[int, ...], known: set[tuple[Any, ...]]
) -> Iterator[dict[str, Any]]:
    """Every row of a seed that is not known yet."""
    if (seed, "full", 32) not in known:
        full = work.network("base").full_footprint()._asdict()
        yield {"method": "full", "bits": 32, "val_accuracy": work.accuracy(work.full_logits), "kl": 0.0, **full}
    for method in METHODS:
        for width in bits:
            if (seed, method, width) not in known:
                network = work.network(method)
                yield row(work, method, width, network, network.single(width))
    wanted = {width: (seed, MIXED, width) not in known for width in MIXED_BITS}
    if any(wanted.values()):
        network = work.network("sqb_optm")
        # At exactly the mean bits that single precision has, edges included.
        targets = {network.footprint(network.single(width)).mean_bits: width for width in MIXED_BITS}
        for reached in greedy(network.slots, work.loss(network), list(targets)):
            width = targets[reached.target]
            if wanted[width]:
                yield row(work, MIXED, width, network, reached.bits)


def row(work: Measurement, method: str, width: int, network: Any, bits: dict[str, int]) -> dict[str, Any]:
    accuracy, kl = work.outcome(network, bits)
    return {"method": method, "bits": width, "val_accuracy": accuracy, "kl": kl, **network.footprint(bits)._asdict()}


def read_rows(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=list(COLUMNS))


def append_row(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.is_file()
    with open(path, "a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if fresh:
            writer.writeheader()
        writer.writerow(values)


# The summary ---------------------------------------------------------------------------------------------------------


def means_table(rows: pd.DataFrame, column: str, write: Any) -> str:
    """Methods by bits, the mean over seeds."""
    quantised = rows[rows["method"] != "full"]
    means = quantised.pivot_table(index="method", columns="bits", values=column, aggfunc="mean")
    means = means.reindex([*METHODS, MIXED]).sort_index(axis=1, ascending=False)
    header = f"| | {' | '.join(f'{bits} bits' for bits in means.columns)} |\n|---|{'---:|' * len(means.columns)}\n"
    lines = [
        f"| {name} | {' | '.join('-' if pd.isna(v) else write(v) for v in line)} |"
        for name, *line in means.itertuples()
    ]
    return header + "\n".join(lines) + "\n"


def order_lines(rows: pd.DataFrame) -> list[str]:
    """For every expected order: mean difference of KL and accuracy, in how many seeds it holds, and the verdict."""
    found = []
    for worse, better, bits in ORDERS:
        first, second = (
            rows[(rows["method"] == name) & (rows["bits"] == bits)].set_index("seed") for name in (worse, better)
        )
        gain = (first["kl"] - second["kl"]).dropna()
        points = 100 * (second["val_accuracy"] - first["val_accuracy"])
        holds = int((gain >= 0).sum())
        verdict = "holds" if gain.mean() >= 0 else "VIOLATED"
        verdict += "" if holds in (0, len(gain)) else ", but not in every seed"
        found.append(
            f"| {worse} <= {better} | {bits} | {gain.mean():+.4f} | {holds} of {len(gain)} | {points.mean():+.1f} | "
            f"{verdict} |"
        )
    return found


def write_summary(asked: argparse.Namespace, data: ImageData, rows: pd.DataFrame) -> None:
    arch = PRESETS[asked.preset].replace(in_channels=data.in_channels, num_classes=data.num_classes)
    cost = count_cost(arch)
    full = rows.loc[rows["method"] == "full", "val_accuracy"]
    sizes = {split: len(data.splits[split]) for split in ("train", "val")}
    subset = ", a subset" if asked.split else ""
    text = f"""# Quantisation study: {asked.label}

{asked.preset} ({human_count(cost.params)} parameters, {human_count(cost.macs)} multiply-adds), trained for
{asked.epochs} epochs on {asked.label}{subset}: {sizes["train"]:,} training and {sizes["val"]:,} validation images,
{data.num_classes} classes. Seeds {", ".join(map(str, sorted(rows["seed"].unique())))}; full precision reaches
{full.mean():.1%} ({", ".join(f"{value:.1%}" for value in full)}). {asked.calib} training images for calibration; all
figures are of the validation split, means over the seeds. One image is {100 / sizes["val"]:.2f} points.

Simulated quantisation: it shows accuracy, never speed. SQ-b, OPT-m and Greedy MP are reconstructions, not the paper's
code, so this says nothing about the paper's own figures. Patch embeddings and heads stay at 8 bits; Greedy MP is run at
the mean bits (weights and one image's activations, by elements) that single precision has at that width.

KL divergence from the full-precision output:

{means_table(rows, "kl", lambda v: f"{v:.4f}")}
Top-1 accuracy (%):

{means_table(rows, "val_accuracy", lambda v: f"{100 * v:.1f}")}
Bit-operations of one image. Equal mean bits are not equal bit-operations: one image has fewer activations than the
network has weights, so Greedy MP takes its bits from the weights and keeps them in the activations.

{means_table(rows, "bit_operations", human_count)}
Expected orders, paired by seed (gain: how much less KL the second method has; points: its accuracy above the first's):

| order | bits | gain in KL | seeds | points | |
|---|---:|---:|---|---:|---|
{chr(10).join(order_lines(rows))}

{sum("VIOLATED" in line for line in order_lines(rows))} of {len(ORDERS)} orders are violated in the mean. With
{rows["seed"].nunique()} seeds an order that does not hold in every one of them is not established.

Made on {device_name("cpu")}, one thread; {", ".join(f"{k} {v}" for k, v in versions().items() if k in _NAMED)}:

```sh
{asked.command}
```
"""
    (asked.out / "README.md").write_text(text, encoding="utf-8")


_NAMED = ("python", "torch", "numpy")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--label", help="what to call the data in the summary")
    parser.add_argument("--preset", default="crossvit_micro_16", choices=sorted(PRESETS))
    parser.add_argument("--split", help="how many training and validation images to use, as 5000,2000")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--augment", default="shift1")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--calib", type=int, default=64)
    parser.add_argument("--bits", default="8,6,5,4,3")
    parser.add_argument("--out", type=Path, required=True, help="folder for table.csv and README.md")
    parser.add_argument("--work", type=Path, help="folder for the trained weights, kept to go on")
    asked = parser.parse_args()
    asked.work = asked.work or Path("results/runs/.quantization_study") / asked.out.name
    asked.label = asked.label or Path(asked.data).name
    asked.command = shlex.join(["python", "benchmarks/quantization_study.py", *_named_arguments(sys.argv[1:], asked)])
    torch.set_num_threads(1)
    run(asked)


def run(asked: argparse.Namespace) -> None:
    data = with_split(load_dataset(asked.data, image_size=PRESETS[asked.preset].size), asked.split)
    bits = tuple(int(text) for text in asked.bits.split(","))
    table = asked.out / "table.csv"
    for seed in range(asked.seeds):
        rows = read_rows(table)
        known = set(zip(rows["seed"], rows["method"], rows["bits"]))
        model = trained_network(asked, data, seed)
        begun = time.perf_counter()
        work = Measurement(model, data, Request(bits=bits, calibration_images=asked.calib), "cpu")
        for values in measure(work, seed, bits, known):
            append_row(table, {"seed": seed, **values})
            shown = f"{values['method']} {values['bits']}: {values['val_accuracy']:.1%}, KL {values['kl']:.4f}"
            print(f"seed {seed}, {shown} ({time.perf_counter() - begun:.0f} s)", flush=True)
    write_summary(asked, data, read_rows(table))
    print((asked.out / "README.md").read_text(encoding="utf-8"))


def _named_arguments(arguments: list[str], asked: argparse.Namespace) -> list[str]:
    """As typed, without the folders of this machine."""
    names = {asked.data: asked.label, str(asked.out): f"results/reference/quantization/{asked.out.name}"}
    hidden = {"--work", str(asked.work)}
    return [names.get(text, text) for text in arguments if text not in hidden]


if __name__ == "__main__":
    main()
