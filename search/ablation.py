"""One base, several variants, the same seeds for each: a study whose trials are known before it begins.

Trials that share a seed share the initial weights (wherever the variants have the same ones), the order of the data and
the augmentation, so that their differences are the variants'. The study lies in a folder like any other and goes on
like any other; with more seeds it grows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crossvit_core.config import FUSION_NAMES, ArchConfig, suggest
from crossvit_core.cost import count_cost
from crossvit_core.presets import PRESETS
from results.ablation_record import COMPONENT, FUSION, PLAIN, SOURCE_PREFIX
from results.store import StudyStore, plain_name
from search.components import ALL, add_components, fitting_components, note_unfitting
from search.enqueue import load_arch
from search.executors.base import Executor
from search.list_searcher import ListedTrial, ListSearcher
from search.session import Listener, Session
from search.study import Study, resolve_study, run_study
from search.study_config import StudyConfig
from search.trial import derive_seed
from search.variants import AblationError, Variant, match_flops, mismatch, vary, widths_of
from space import Space, SpaceFile, load_space
from space.dimension import Dimension

MATCHES = ("none", "flops")
DEFAULT_REFERENCE = "cross_attention"
DEFAULT_DATA = "digits"

# Of a space's recommendations, those that are about searching it.
_NOT_TAKEN = ("trials", "stopping", "dashboard", "tensorboard")


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """What was asked for.

    ``dimension`` is the path that varies, or ``COMPONENT``: then ``values`` are names of ``search.components``.
    ``base`` is a preset, a JSON file or STUDY:TRIAL, then with that study's data and recipe; without one it is the base
    of ``space``, which also recommends data and recipe and says which values a dimension has. ``values`` left empty are
    the space's, or all fusion schemes.
    ``reference`` is the value that the others are compared with, and matched to: cross-attention if it takes part,
    else the base's own, else the first. ``study`` says the rest: name, data, seed, settings, workers, device.
    """

    base: str | None = None
    space: str | None = None
    dimension: str = FUSION
    values: tuple[Any, ...] = ()
    reference: str | None = None
    seeds: int = 5
    match: str = "none"
    study: StudyConfig = field(default_factory=StudyConfig)

    @property
    def takes_all_components(self) -> bool:
        return self.dimension == COMPONENT and self.values == (ALL,)


@dataclass(frozen=True)
class Ablation(Study):
    """A study whose trials are ``variants`` times seeds; ``ablated`` is what its record says of them."""

    variants: tuple[Variant, ...] = ()
    seeds: int = 0
    ablated: dict[str, Any] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """What study.json holds. Variants and reference stand in the space too, since that is what may not change."""
        described = super().describe()
        fixed = {
            "variants": {variant.name: variant.arch.key() for variant in self.variants},
            "reference": self.ablated["reference"],
        }
        return {**described, "space": {**described["space"], **fixed}, "ablation": self.ablated}

    def trial_list(self) -> list[ListedTrial]:
        """Seed by seed, so that what there is at any time can be compared, and more seeds make it longer."""
        return [
            ListedTrial(variant.arch, derive_seed(self.seed, "ablation", index), SOURCE_PREFIX + variant.name)
            for index in range(self.seeds)
            for variant in self.variants
        ]


def resolve_ablation(config: AblationConfig) -> Ablation:
    """Make every choice that the config leaves open, and load the data. Raises the error of the part at fault."""
    _check(config)
    file = load_space(config.space or StudyConfig.space) if config.space or not config.base else None
    base = _find_base(config, file)
    values = _find_values(config, base, file)
    variants = _vary(base, config.dimension, values)
    reference = _find_reference(config, base, variants)
    study = resolve_study(_study_config(config, len(variants)), _space_file(config, base, values, file))
    variants = _match(_vary(study.space.base, config.dimension, values), reference, config.match)
    of_reference = next(variant.arch for variant in variants if variant.name == reference)
    plan = replace(study.plan, share_weights_with=of_reference, score_branches=True)
    fields = {part.name: getattr(study, part.name) for part in dataclasses.fields(Study)}
    return Ablation(
        **{
            **fields,
            "sampler": "list",
            "plan": plan,
            "notes": (*study.notes, *_note_parts(variants, reference, config, values, file)),
        },
        variants=tuple(variants),
        seeds=config.seeds,
        ablated=_describe(config, study.space.base, variants, reference),
    )


def run_ablation(
    ablation: Ablation,
    executor: Executor,
    listeners: Iterable[Listener] = (),
    on_open: Callable[[Session], None] | None = None,
) -> Session:
    """Run it to its end, from wherever its ledger stands, and return the session."""
    return run_study(ablation, executor, listeners, on_open, searcher=ListSearcher(ablation.trial_list()))


def _check(config: AblationConfig) -> None:
    if config.seeds < 2:
        raise AblationError(
            f"an ablation needs at least 2 seeds, got {config.seeds}: from one training of each variant nothing says "
            "how much of a difference is chance; use --seeds 5 (make: SEEDS=5)"
        )
    if config.match not in MATCHES:
        raise AblationError(f"unknown match {config.match!r}; {suggest(config.match, MATCHES)}")
    if config.match == "flops" and config.dimension.endswith(".embed_dim"):
        raise AblationError(
            f"FLOPs are matched by the widths, which {config.dimension!r} varies itself; "
            "use --match none (make: MATCH=none)"
        )


def _vary(base: ArchConfig, dimension: str, values: tuple[Any, ...]) -> list[Variant]:
    return add_components(base, values) if dimension == COMPONENT else vary(base, dimension, values)


def _find_base(config: AblationConfig, file: SpaceFile | None) -> ArchConfig:
    """The architecture to vary. One that is given beside a space must be a member of it, classes and channels aside."""
    if config.base is None:
        assert file is not None
        return file.space.base.check()
    base = load_arch(config.base, config.study.runs_dir).check()
    if file is not None:
        own = file.space.base
        problems = file.space.validate(base.replace(num_classes=own.num_classes, in_channels=own.in_channels))
        if problems:
            raise AblationError(
                f"the base {config.base!r} is no member of the space {file.space.name!r}: {'; '.join(problems)}; "
                "leave the space out, or use an architecture of it"
            )
    return base


def _find_values(config: AblationConfig, base: ArchConfig, file: SpaceFile | None) -> tuple[Any, ...]:
    if config.takes_all_components:
        return fitting_components(base)
    if config.values:
        return config.values
    if config.dimension == FUSION:
        return FUSION_NAMES
    choices = {dimension.path: dimension.choices for dimension in file.space.dimensions} if file is not None else {}
    if config.dimension not in choices:
        where = (
            f"the space {file.space.name!r} varies {', '.join(choices)}" if file is not None else "no space is given"
        )
        raise AblationError(
            f"nothing says which values {config.dimension!r} takes; give --values (make: VALUES=); {where}"
        )
    return choices[config.dimension]


def _find_reference(config: AblationConfig, base: ArchConfig, variants: list[Variant]) -> str:
    names = [variant.name for variant in variants]
    if config.reference is not None:
        if config.reference not in names:
            raise AblationError(f"the reference {config.reference!r} takes no part; {suggest(config.reference, names)}")
        return config.reference
    for usual in (DEFAULT_REFERENCE, PLAIN):
        if usual in names:
            return usual
    return next((variant.name for variant in variants if variant.arch.key() == base.key()), names[0])


def _study_config(config: AblationConfig, num_variants: int) -> StudyConfig:
    """No early stopping: a comparison needs every training whole."""
    return replace(config.study, trials=num_variants * config.seeds, stopping="none", enqueue=())


def _space_file(config: AblationConfig, base: ArchConfig, values: tuple[Any, ...], file: SpaceFile | None) -> SpaceFile:
    """The space of the variants. Its limits, if it comes from a file, are none of ours: a variant may be over them."""
    varied = () if config.dimension == COMPONENT else (Dimension(config.dimension, values),)
    space = Space(_space_name(config, file), base, varied)
    if file is None:
        return SpaceFile(space, source="", description="", study=_recommended(config))
    settings = {name: value for name, value in file.study.items() if name not in _NOT_TAKEN}
    return replace(file, space=space, study=settings, measured_limits=())


def _recommended(config: AblationConfig) -> dict[str, Any]:
    """Data and recipe without a space: those of the study that the base comes from, else the usual ones."""
    base = config.base or ""
    if base in PRESETS or Path(base).is_file():
        return {"data": DEFAULT_DATA}
    study = StudyStore.open_readonly(config.study.runs_dir / base.rpartition(":")[0]).study
    return {"data": study["data"]["name"], "measure_batch_size": study["measure"]["batch_size"], **study["recipe"]}


def _space_name(config: AblationConfig, file: SpaceFile | None) -> str:
    what = {FUSION: "fusion", COMPONENT: "components"}.get(config.dimension, config.dimension)
    base = Path(config.base).stem if config.base else file.space.name if file is not None else "base"
    return plain_name(f"ablation-{what}-{base}{'-matched' if config.match != 'none' else ''}".replace("*", "all"))


def _match(variants: list[Variant], reference: str, match: str) -> list[Variant]:
    if match == "none":
        return variants
    target = next(count_cost(variant.arch).macs for variant in variants if variant.name == reference)
    return [v if v.name == reference else match_flops(v, target) for v in variants]


def _note_parts(
    variants: list[Variant], reference: str, config: AblationConfig, values: tuple[Any, ...], file: SpaceFile | None
) -> Iterator[str]:
    """What the user should know of the variants."""
    if config.match != "none":
        yield _note_match(variants, reference)
    if config.takes_all_components and (left_out := note_unfitting(values)):
        yield left_out
    if file is not None:
        yield from _note_limits(variants, file.space)


def _note_limits(variants: list[Variant], space: Space) -> Iterator[str]:
    """Variants outside the limits of the space that they come from: they are trained all the same."""
    for variant in variants:
        metrics = {limit.metric: getattr(count_cost(variant.arch), limit.metric) for limit in space.limits}
        broken = "; ".join(filter(None, (limit.breach(metrics) for limit in space.limits)))
        if broken:
            yield f"{variant.name} lies outside the limits of {space.name}: {broken}"


def _note_match(variants: list[Variant], reference: str) -> str:
    """What is left of a difference in FLOPs after matching."""
    target = next(count_cost(variant.arch).macs for variant in variants if variant.name == reference)
    parts = [f"{v.name} {widths_of(v.arch)} ({mismatch(v.arch, target):+.1%})" for v in variants]
    return f"widths that bring FLOPs nearest to {reference}'s: {', '.join(parts)}"


def _describe(config: AblationConfig, base: ArchConfig, variants: list[Variant], reference: str) -> dict[str, Any]:
    return {
        "dimension": config.dimension,
        "base": config.base or config.space or StudyConfig.space,
        "base_arch": base.to_dict(),
        "reference": reference,
        "match": config.match,
        "variants": [
            {
                "name": variant.name,
                "changes": {path: _plain(value) for path, value in variant.changes.items()},
                "arch_key": variant.arch.key(),
                "macs": count_cost(variant.arch).macs,
                "params": count_cost(variant.arch).params,
            }
            for variant in variants
        ],
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
