"""Spaces as YAML files: the built-in ones and people's own. Every error names the file, the line and the fix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from crossvit_core.config import ArchConfig, ArchError, suggest
from crossvit_core.presets import PRESETS
from space.dead_choices import DeadChoice, find_dead_choices, is_about
from space.dimension import Dimension, find_rivals
from space.limits import LIMITED_METRICS, Limit, LimitError, make_limit
from space.paths import IMAGE_SIZE, PathError, check_path, held_at, set_path, shared_place, to_tree
from space.space import Space, SpaceError

PRESETS_DIR = Path(__file__).parent / "presets"

# What is said of a value of the wrong kind, by pydantic's name for the mistake.
_WANTED = {"dict_type": "this is no mapping; write one, as {max: 4M}", "list_type": "this is no list; write [1, 2]"}

Lines = dict[tuple[str | int, ...], int]


class _SpaceModel(BaseModel):
    """The top level of a space file."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    description: str = ""
    base: str | dict[str, Any]
    fixed: dict[str, Any] = {}
    dimensions: dict[str, list[Any]]
    limits: dict[str, dict[str, Any]] = {}
    study: dict[str, Any] = {}


@dataclass(frozen=True)
class SpaceFile:
    """A space, the file it came from, and the study settings the file recommends (read by the search).

    ``measured_limits`` are the file's limits on what no closed form counts: the space knows nothing of them, a trial
    is held against them once it is measured.
    """

    space: Space
    source: str
    description: str
    study: dict[str, Any]
    lines: Lines = field(default_factory=dict, repr=False)
    measured_limits: tuple[Limit, ...] = ()

    def fail(self, where: tuple[str | int, ...], message: str) -> NoReturn:
        """Raise SpaceError about the entry at ``where``."""
        raise SpaceError(f"{self.source}{_line_of(where, self.lines)}: {message}")


def list_spaces() -> list[str]:
    """Names of the built-in spaces."""
    return sorted(path.stem for path in PRESETS_DIR.glob("*.yaml"))


def load_space(name: str) -> SpaceFile:
    """A built-in space by name, or the YAML file at a path. Raises SpaceError."""
    looks_like_path = name.endswith((".yaml", ".yml")) or "/" in name
    path = Path(name) if looks_like_path else PRESETS_DIR / f"{name}.yaml"
    if not path.is_file():
        if looks_like_path:
            raise SpaceError(f"no space file {name}; built in: {', '.join(list_spaces())}")
        raise SpaceError(f"unknown space {name!r}; {suggest(name, list_spaces())}; or give the path of a .yaml file")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"cannot read {path}: {error}") from error
    return parse_space(text, source=name if looks_like_path else f"{name}.yaml")


def parse_space(text: str, source: str) -> SpaceFile:
    """The space that a YAML text describes. Raises SpaceError with ``source`` and the line."""
    data, lines = _read_yaml(text, source)
    reader = _Reader(source, lines)
    model = reader.model(data)
    limits = tuple(reader.limit(metric, window) for metric, window in model.limits.items())
    space = reader.space(model, tuple(limit for limit in limits if limit.metric in LIMITED_METRICS))
    measured = tuple(limit for limit in limits if limit.metric not in LIMITED_METRICS)
    return SpaceFile(space, source, model.description, model.study, lines, measured)


class _Reader:
    """Turns a parsed file into a space; keeps what its errors need."""

    def __init__(self, source: str, lines: Lines) -> None:
        self.source = source
        self.lines = lines

    def fail(self, where: tuple[str | int, ...], message: str) -> NoReturn:
        raise SpaceError(f"{self.source}{_line_of(where, self.lines)}: {message}")

    def model(self, data: Any) -> _SpaceModel:
        if not isinstance(data, dict):
            self.fail((), "a space file is a mapping with name, base and dimensions")
        try:
            return _SpaceModel(**{str(key): value for key, value in data.items()})
        except ValidationError as error:
            # A misspelt field is also a missing one: name the misspelling.
            first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
            where = first["loc"]
            if first["type"] == "extra_forbidden":
                self.fail(where, f"unknown field {where[-1]!r}; {suggest(str(where[-1]), _SpaceModel.model_fields)}")
            if first["type"] == "missing":
                self.fail((), f"the field {where[-1]!r} is missing")
            wanted = _WANTED.get(first["type"], first["msg"])
            self.fail(where, f"{'.'.join(map(str, where))}: {wanted}, got {first['input']!r}")

    def space(self, model: _SpaceModel, limits: tuple[Limit, ...]) -> Space:
        base = self.base(model.base)
        for path, value in model.fixed.items():
            self.path(("fixed", path), path, len(base.branches))
            self.not_both(path, model.dimensions)
            self.value(("fixed", path), base, path, value)
        dimensions = tuple(self.dimension(path, choices, base) for path, choices in model.dimensions.items())
        if not dimensions:
            self.fail(("dimensions",), "no dimensions; give at least one path with its choices")
        space = Space(model.name, base, dimensions, limits, model.fixed)
        self.places(space)
        self.overlaps(space)
        self.whole(space)
        return space

    def not_both(self, path: str, dimensions: Iterable[str]) -> None:
        for other in dimensions:
            if shared_place(path, other) or (other == IMAGE_SIZE and path.endswith(f".{IMAGE_SIZE}")):
                self.fail(("fixed", path), f"{path} is fixed, and the dimension {other} varies it; leave one out")

    def base(self, base: str | dict[str, Any]) -> ArchConfig:
        if isinstance(base, str):
            if base not in PRESETS:
                self.fail(("base",), f"unknown base {base!r}; {suggest(base, PRESETS)}")
            return PRESETS[base]
        try:
            return ArchConfig.from_dict(base).check()
        except ArchError as error:
            self.fail(("base",), f"base: {error}")

    def path(self, where: tuple[str | int, ...], path: str, num_branches: int) -> None:
        try:
            check_path(path, num_branches)
        except PathError as error:
            self.fail(where, str(error))

    def value(self, where: tuple[str | int, ...], base: ArchConfig, path: str, value: Any) -> None:
        """Refuse what no architecture could hold at this path, whatever the other choices."""
        if path == "num_encoders" and not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
            self.fail(where, f"{path}: {value!r} is no number of encoders; use an integer of at least 1")
        tree = to_tree(base)
        try:
            set_path(tree, path, value)
            Space("probe", base, (Dimension(path, (value,)),)).decode((0,))
        except (TypeError, ValueError) as error:
            self.fail(where, f"{path}: {value!r} does not fit ({error})")

    def dimension(self, path: str, choices: list[Any], base: ArchConfig) -> Dimension:
        where = ("dimensions", path)
        self.path(where, path, len(base.branches))
        if not choices:
            self.fail(where, f"{path} has no choices; give at least one")
        for index, choice in enumerate(choices):
            if choice in choices[:index]:
                self.fail(where, f"{path}: the choice {choice!r} stands there twice")
            self.value((*where, index), base, path, choice)
        held = [held_at(base, path, choice) for choice in choices]
        for index, value in enumerate(held):
            if value in held[:index]:
                first = choices[held.index(value)]
                self.fail((*where, index), f"{path}: {first!r} and {choices[index]!r} mean the same; leave one out")
        return Dimension(path, tuple(choices))

    def limit(self, metric: str, window: dict[str, Any]) -> Limit:
        try:
            return make_limit(metric, window)
        except LimitError as error:
            self.fail(("limits", metric, error.side), str(error))

    def places(self, space: Space) -> None:
        """Refuse a path into an encoder that no architecture has."""
        encoders = space.max_encoders
        for where, paths in (("fixed", list(space.fixed)), ("dimensions", [d.path for d in space.dimensions])):
            for path in paths:
                kind, *rest = path.split(".")
                if kind == "encoders" and rest[0] != "*" and int(rest[0]) >= encoders:
                    known = f"0 to {encoders - 1}" if encoders > 1 else "0"
                    self.fail((where, path), f"{path}: no architecture of this space has that encoder; use {known}")

    def overlaps(self, space: Space) -> None:
        """Refuse paths of which neither goes before the other, and a path to which the others leave no place."""
        rivals = find_rivals(space.dimensions)
        if rivals is not None:
            one, other, place = rivals
            problem = f"{other.path} and {one.path} both set {place}, and neither is a special case of the other"
            self.fail(("dimensions", other.path), f"{problem}; leave one out")
        for position, dimension in enumerate(space.dimensions):
            if dimension.finer and not space.has_place(position):
                problem = f"{dimension.path} has no place left beside {', '.join(dimension.finer)}"
                self.fail(("dimensions", dimension.path), f"{problem}; leave it out, or one of those")

    def whole(self, space: Space) -> None:
        """Refuse choices that can never be built and limits that leave nothing."""
        import numpy as np

        rng = np.random.default_rng(0)
        dead = find_dead_choices(space, rng)
        if dead:
            self.blame(dead, space.fixed)
        try:
            space.sample_vector(rng)
        except SpaceError as error:
            self.fail(("limits",), str(error))

    def blame(self, dead: list[DeadChoice], fixed: Mapping[str, Any]) -> NoReturn:
        """One bad value kills the choices of all other dimensions: name that whose field the problem is about."""
        for each in dead:
            if is_about(each.problem, each.path):
                self.fail(("dimensions", each.path, each.index), each.describe())
        for each in dead:
            for path, value in fixed.items():
                if is_about(each.problem, path):
                    self.fail(("fixed", path), f"{path}: nothing can be built with {value!r}: {each.problem}")
        self.fail(("dimensions", dead[0].path, dead[0].index), dead[0].describe())


def _read_yaml(text: str, source: str) -> tuple[Any, Lines]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
        lines = dict(_node_lines(node, ())) if node is not None else {}
    except RecursionError as error:
        raise SpaceError(f"{source}: an anchor (&) holds itself (*); write the values out") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise SpaceError(f"{source}{place}: not YAML: {getattr(error, 'problem', None) or error}") from error
    duplicate = _duplicate_key(node)
    if duplicate is not None:
        raise SpaceError(f"{source}, line {duplicate.start_mark.line + 1}: {duplicate.value!r} stands there twice")
    return data, lines


def _node_lines(node: yaml.Node, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*path, str(key.value)), key.start_mark.line + 1
            yield from _node_lines(value, (*path, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), value.start_mark.line + 1
            yield from _node_lines(value, (*path, index))


def _duplicate_key(node: yaml.Node | None) -> yaml.ScalarNode | None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                return key
            seen.add(str(key.value))
            found = _duplicate_key(value)
            if found is not None:
                return found
    return None


def _line_of(where: tuple[str | int, ...], lines: Lines) -> str:
    """', line 12' for the innermost known part of a place in the file."""
    for length in range(len(where), 0, -1):
        if where[:length] in lines:
            return f", line {lines[where[:length]]}"
    return ""
