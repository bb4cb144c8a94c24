"""Architectures that a user names: found, fitted to the data, and refused where the space does not hold them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossvit_core import PRESETS, ArchConfig
from crossvit_core.config import ArchError
from results.records import Asked
from results.store import StoreError, StudyStore
from search.enqueue import find_enqueued, load_arch, member_presets
from space import Limit, Space, SpaceError, load_space


@pytest.fixture
def space() -> Space:
    return load_space("smoke").space.for_data(num_classes=7, in_channels=1)


def member(space: Space) -> ArchConfig:
    return space.decode(tuple(0 for _ in space.dimensions))


def write_arch(path: Path, arch: ArchConfig) -> str:
    path.write_text(json.dumps(arch.to_dict()))
    return str(path)


def test_presets_files_and_trials_are_found_and_fitted_to_the_data(tmp_path: Path, space: Space) -> None:
    first, second = space.decode((0, 0, 0)), space.decode((1, 0, 2))
    file = write_arch(tmp_path / "arch.json", first.replace(num_classes=1000, in_channels=3))
    with StudyStore.create(tmp_path / "other", {}) as store:
        store.append(Asked(trial=0, arch_key="a", arch=first.to_dict(), seed=0, source="tpe"))
        store.append(Asked(trial=1, arch_key="b", arch=second.replace(num_classes=3).to_dict(), seed=0, source="tpe"))
    found = find_enqueued([file, "other:1"], space, tmp_path)
    assert [(item.source, item.arch, item.required) for item in found] == [
        (f"enqueued:{file}", first, True),
        ("enqueued:other:1", second, True),
    ]


def test_presets_in_the_space_are_members(space: Space) -> None:
    members = {item.source: item for item in member_presets(space)}
    for source, item in members.items():
        assert space.validate(item.arch) == []
        assert not item.required
        assert item.arch.num_classes == 7
        assert source.removeprefix("preset:") in PRESETS
    assert "preset:crossvit_tiny_240" not in members


def test_what_the_space_does_not_hold_is_refused_with_the_field(tmp_path: Path, space: Space) -> None:
    with pytest.raises(
        SpaceError, match=r"cannot enqueue 'crossvit_tiny_240' in space 'smoke': .*branches\.0\.embed_dim of this"
    ):
        find_enqueued(["crossvit_tiny_240"], space, tmp_path)
    arch = member(space)
    deeper = arch.replace(encoders=(*arch.encoders, arch.encoders[0]))
    with pytest.raises(SpaceError, match=rf"not free: encoders \({len(deeper.encoders)} of them instead of"):
        find_enqueued([write_arch(tmp_path / "deep.json", deeper)], space, tmp_path)


def test_what_breaks_a_limit_is_refused_with_the_limit(tmp_path: Path, space: Space) -> None:
    tight = Space("tight", space.base, space.dimensions, (Limit("macs", None, 1000),))
    with pytest.raises(SpaceError, match=r"cannot enqueue .* the space allows macs at most 1 k"):
        find_enqueued([write_arch(tmp_path / "a.json", member(space))], tight, tmp_path)


def test_names_that_lead_nowhere_are_explained(tmp_path: Path) -> None:
    with StudyStore.create(tmp_path / "other", {}) as store:
        store.append(Asked(trial=0, arch_key="a", arch={}, seed=0, source="tpe"))
    with pytest.raises(
        ArchError, match=r"no preset, no file and no STUDY:TRIAL 'crossvit_tini'.*did you mean 'crossvit_tiny"
    ):
        load_arch("crossvit_tini", tmp_path)
    with pytest.raises(StoreError, match="study 'other' has no trial 9; it has trials 0 to 0"):
        load_arch("other:9", tmp_path)
    with pytest.raises(StoreError, match="no study 'elsewhere'"):
        load_arch("elsewhere:1", tmp_path)


@pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ('{"depth": 3}', "bad.json: .*depth")])
def test_files_that_hold_no_architecture_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(ArchError, match=message):
        load_arch(str(tmp_path / "bad.json"), tmp_path)


def test_a_name_that_lacks_something_says_what(tmp_path: Path) -> None:
    StudyStore.create(tmp_path / "mine", {}).close()
    with pytest.raises(ArchError, match="'mine' is a study, not one of its networks; add the trial, as mine:0"):
        load_arch("mine", tmp_path)
    with pytest.raises(ArchError, match=r"there is no file mine\.json"):
        load_arch("mine.json", tmp_path)
