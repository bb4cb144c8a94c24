"""Quantising the kept weights of a trial: every point is on the disk as soon as it is measured, and measured once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from crossvit_core.data import ImageData
from crossvit_core.device_info import device_name, pick_device
from crossvit_core.model import CrossViT
from crossvit_core.quantize.mixed import greedy
from crossvit_core.quantize.network import Bits, Footprint, Prepared, QuantizedNetwork, divergence, prepare
from crossvit_core.quantize.settings import (
    FULL_BITS,
    QuantizeError,
    check_alpha,
    check_bits,
    check_calibration,
    check_targets,
    find_method,
)
from crossvit_core.train import Split, open_split
from crossvit_core.weights import WeightsError, load_model
from results.quantization import (
    FULL,
    MIXED,
    SINGLE,
    QuantizedPoint,
    append_point,
    read_points,
    trial_folder,
    weights_digest,
)
from results.store import WriteError
from search.study_data import open_study_data
from search.trained import Trained, find_trained

MIXED_METHOD = "sqb_optm"
_BATCH_SIZE = 256
_CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class Request:
    """What to measure: single precision by ``methods`` at ``bits``, mixed precision at the mean bits ``targets``.

    ``rho`` is how much of Greedy MP's choice is what a tensor saves. Raises QuantizeError for what is not possible.
    """

    bits: tuple[int, ...] = (8, 6, 5, 4, 3)
    targets: tuple[float, ...] = (6, 5, 4.5, 4)
    calibration_images: int = 128
    alpha: float = 0.5
    rho: float = 1.0
    methods: tuple[str, ...] = ("base", "sqb", "optm", "sqb_optm")

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", check_bits(self.bits))
        object.__setattr__(self, "targets", check_targets(self.targets))
        check_calibration(self.calibration_images)
        check_alpha(self.alpha)
        if not 0 <= self.rho <= 4:
            raise QuantizeError(f"rho {self.rho:g} is not possible; use 0 to 4, of which 0.5 to 1 is usual")
        for name in self.methods:
            find_method(name)


def quantize_trial(
    study_dir: Path,
    trial: int,
    request: Request,
    *,
    origin: str = "auto",
    device: str = "auto",
    moved_to: str | None = None,
) -> Iterator[QuantizedPoint]:
    """Measure what was asked of a trial, best first: full precision, single precision, mixed precision.

    Points that were measured before are read, not measured again. ``origin`` as in ``find_trained``, ``moved_to`` as in
    ``open_study_data``. Raises
    ExportError for a trial without weights, StoreError, DataError, QuantizeError.
    """
    trained = find_trained(study_dir, trial, origin)
    folder = trial_folder(study_dir, trial)
    try:
        model = load_model(trained.weights, trained.arch).float()
    except WeightsError as error:
        raise QuantizeError(str(error)) from error
    work = Measurement(model, open_study_data(study_dir, moved_to), request, pick_device(device))
    recorder = _Recorder(work, folder, trial, trained)
    yield recorder.full()
    for method in request.methods:
        for bits in request.bits:
            yield recorder.single(method, bits)
    yield from recorder.mixed()


class Measurement:
    """A network, its calibration and validation images, and what was prepared of them so far."""

    def __init__(self, model: CrossViT, data: ImageData, request: Request, device: str) -> None:
        self.model, self.request, self.device = model.to(device).eval(), request, device
        train, self.val = open_split(data, "train", device), open_split(data, "val", device)
        self.images, _ = train.batch(calibration_rows(train, request.calibration_images))
        self._prepared: dict[str, Prepared] = {}

    @cached_property
    def full_logits(self) -> Tensor:
        """Of the validation split at full precision."""
        return self._validate(self.model)

    def network(self, method: str) -> QuantizedNetwork:
        """The network quantised by a method; methods with the same smoothing share the preparation."""
        asked = find_method(method)
        if asked.smoothing not in self._prepared:
            prepared = prepare(self.model, self.images, asked.smoothing, self.request.alpha)
            self._prepared[asked.smoothing] = prepared
        return QuantizedNetwork(self._prepared[asked.smoothing], asked)

    def outcome(self, network: QuantizedNetwork, bits: Bits) -> tuple[float, float]:
        """Validation accuracy (a fraction), and the divergence from full precision."""
        logits = self._validate(lambda images: network.logits(images, bits))
        return self.accuracy(logits), divergence(self.full_logits, logits)

    def accuracy(self, logits: Tensor) -> float:
        """Of logits of the validation split, a fraction."""
        return (logits.argmax(dim=1) == self.val.labels[self.val.rows]).float().mean().item()

    def loss(self, network: QuantizedNetwork) -> Callable[[Bits], float]:
        """Greedy MP's: the divergence from full precision on the calibration images."""
        batches = self.images.split(_CALIBRATION_BATCH)
        with torch.inference_mode():
            expected = torch.cat([self.model(batch) for batch in batches])
        return lambda bits: divergence(expected, torch.cat([network.logits(batch, bits) for batch in batches]))

    @torch.inference_mode()
    def _validate(self, compute: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([compute(self.val.batch(rows)[0]).float() for rows in self.val.rows.split(_BATCH_SIZE)])


class Journal:
    """Losses by assignment of bits, each written down when measured and never measured twice.

    So Greedy MP, when it was killed, goes on where it was: it asks the same questions again.
    """

    def __init__(self, path: Path, measure: Callable[[Bits], float]) -> None:
        self.path, self.measure = path, measure
        self.known = dict(_read_losses(path))

    def __call__(self, bits: Bits) -> float:
        digest = hashlib.sha256(json.dumps(sorted(bits.items())).encode()).hexdigest()[:20]
        if digest not in self.known:
            self.known[digest] = self.measure(bits)
            self._write(f"\n{json.dumps([digest, self.known[digest]])}\n")
        return self.known[digest]

    def _write(self, text: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise WriteError(f"cannot write to {self.path}: {error.strerror or error}") from error


def calibration_rows(train: Split, count: int) -> Tensor:
    """Rows of ``count`` training images, drawn with a fixed seed; of all there are, if those are fewer."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:count]
    return train.rows[order.to(train.rows.device)]


class _Recorder:
    """Answers from the folder what it holds, measures the rest and writes it down."""

    def __init__(self, work: Measurement, folder: Path, trial: int, trained: Trained) -> None:
        self.work, self.folder, self.trial, self.trained = work, folder, trial, trained
        self.weights = weights_digest(trained.weights)
        self.known = {point.key: point for point in read_points(folder)}

    def full(self) -> QuantizedPoint:
        """The network as it is."""
        begun = time.perf_counter()
        found = self._known("none", FULL, FULL_BITS)
        if found is not None:
            return found
        accuracy = self.work.accuracy(self.work.full_logits)
        cost = self.work.network("base").full_footprint()
        return self._record(("none", FULL, FULL_BITS), (accuracy, 0.0), cost, {}, begun)

    def single(self, method: str, bits: int) -> QuantizedPoint:
        """All tensors at the same bits."""
        begun = time.perf_counter()
        found = self._known(method, SINGLE, bits)
        if found is not None:
            return found
        network = self.work.network(method)
        chosen = network.single(bits)
        outcome = self.work.outcome(network, chosen)
        return self._record((method, SINGLE, bits), outcome, network.footprint(chosen), {}, begun)

    def mixed(self) -> Iterator[QuantizedPoint]:
        """Greedy MP, one descent for all targets; none of it when all points are there."""
        known = [self._known(MIXED_METHOD, MIXED, target) for target in self.work.request.targets]
        if all(known):
            yield from (point for point in known if point is not None)
            return
        network = self.work.network(MIXED_METHOD)
        loss = Journal(self._losses_path(), self.work.loss(network))
        begun = time.perf_counter()
        for reached in greedy(network.slots, loss, self.work.request.targets, rho=self.work.request.rho):
            found = self._known(MIXED_METHOD, MIXED, reached.target)
            if found is None:
                outcome = self.work.outcome(network, reached.bits)
                asked = (MIXED_METHOD, MIXED, reached.target)
                found = self._record(asked, outcome, network.footprint(reached.bits), reached.bits, begun)
            yield found

    def _losses_path(self) -> Path:
        request = self.work.request
        asked = (self.weights, MIXED_METHOD, request.calibration_images, request.alpha)
        return self.folder / f"losses-{hashlib.sha256(repr(asked).encode()).hexdigest()[:8]}.jsonl"

    def _settings(self, method: str, precision: str) -> tuple[int, float, float]:
        """Calibration images, alpha and rho, each 0 where it does not matter."""
        request = self.work.request
        if precision == FULL:
            return 0, 0.0, 0.0
        alpha = request.alpha if find_method(method).smoothing != "none" else 0.0
        return request.calibration_images, alpha, request.rho if precision == MIXED else 0.0

    def _known(self, method: str, precision: str, bits: float) -> QuantizedPoint | None:
        asked = (self.weights, method, precision, bits, *self._settings(method, precision))
        return self.known.get((self.trial, *asked))

    def _record(
        self,
        asked: tuple[str, str, float],
        outcome: tuple[float, float],
        cost: Footprint,
        assignment: dict[str, int],
        begun: float,
    ) -> QuantizedPoint:
        method, precision, bits = asked
        calibration_images, alpha, rho = self._settings(method, precision)
        point = QuantizedPoint(
            trial=self.trial,
            arch_key=self.trained.arch.key(),
            method=method,
            precision=precision,
            bits=bits,
            val_accuracy=round(outcome[0], 6),
            kl=outcome[1],
            **cost._asdict(),
            num_val_images=len(self.work.val),
            weights=self.weights,
            calibration_images=calibration_images,
            alpha=alpha,
            rho=rho,
            device=device_name(self.work.device),
            torch=torch.__version__,
            seconds=round(time.perf_counter() - begun, 3),
            assignment=assignment,
        )
        append_point(self.folder, point)
        return point


def _read_losses(path: Path) -> Iterator[tuple[str, float]]:
    """A line that was cut short by a kill is passed over."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            digest, loss = json.loads(line)
        except (ValueError, TypeError):
            continue
        yield str(digest), float(loss)
