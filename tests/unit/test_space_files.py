"""Space files: every mistake is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from space import Limit, SpaceError, format_number, list_spaces, load_space, parse_number, parse_space
from space.paths import get_path, to_tree

GOOD = """\
name: mine
base: crossvit_nano_16
dimensions:
  branches.0.embed_dim: [8, 16]
  encoders.*.fusion: [none, pairwise]
limits:
  macs: {max: 1M}
"""


def test_a_good_file_is_read() -> None:
    file = parse_space(GOOD, "mine.yaml")
    assert file.space.name == "mine"
    assert file.space.size() == 4
    assert file.space.limits[0].maximum == 1_000_000


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dimensions:", "dimension:", r"line 3: unknown field 'dimension'; did you mean 'dimensions'\?"),
        ("embed_dim", "embed_dimm", r"line 4: .*unknown field 'embed_dimm'; did you mean 'embed_dim'\?"),
        ("branches.0", "branches.7", r"line 4: .* the base has 2 branches, 0 to 1"),
        ("branches.0", "branch.0", r"line 4: unknown path .*; did you mean 'branches'"),
        (
            "crossvit_nano_16",
            "crossvit_nan_16",
            r"line 2: unknown base 'crossvit_nan_16'; did you mean 'crossvit_nano_16'",
        ),
        ("pairwise", "pair_wise", r"line 5: .*'pair_wise' can never be built: .*did you mean 'pairwise'"),
        ("[8, 16]", "[]", r"line 4: branches\.0\.embed_dim has no choices"),
        ("[8, 16]", "[8, 8]", r"line 4: .*the choice 8 stands there twice"),
        ("[8, 16]", "[8, 9]", r"line 4: .*choice 9 can never be built: .*not divisible by num_heads 2; use 8 or 10"),
        ("[8, 16]", "[8, x]", r"line 4: .*'x'"),
        ("[8, 16]", "8", r"line 4: .*list"),
        ("macs", "mac", r"line 7: unknown limit 'mac'; did you mean 'macs'\?"),
        ("max", "maximum", r"line 7: limit macs: unknown side 'maximum'; use min or max"),
        ("1M", "1X", r"line 7: limit macs: '1X' is not a number"),
        ("{max: 1M}", "{min: 2M, max: 1M}", r"line 7: limit macs is an empty window: min 2M is above max 1M"),
        ("{max: 1M}", "{max: 100}", r"line 6: .*the limit macs at most 100 binds; its choices reach"),
        ("name: mine", "name: [", r"line \d: not YAML"),
        ("{max: 1M}", "1M", r"line 7: limits\.macs: this is no mapping; write one, as \{max: 4M\}, got '1M'"),
        (
            "limits:",
            "fixed: {branches.0.embed_dim: 8}\nlimits:",
            r"line 6: branches\.0\.embed_dim is fixed, and",
        ),
        ("limits:", "fixed: {encoders.0.fusion: none}\nlimits:", r"encoders\.\*\.fusion varies it; leave one out"),
        ("name: mine\n", "", r"the field 'name' is missing"),
        ("limits:", "name: twice\nlimits:", r"line 6: 'name' stands there twice"),
    ],
)
def test_mistakes_name_the_line_and_the_fix(old: str, new: str, message: str) -> None:
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    with pytest.raises(SpaceError, match=message) as caught:
        parse_space(text, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml")


def test_unknown_names_are_answered_with_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match="unknown space 'smal'; did you mean 'small'"):
        load_space("smal")
    with pytest.raises(SpaceError, match=r"no space file .*; built in: bench, cifar, extended, paper, small, smoke"):
        load_space(str(tmp_path / "none.yaml"))


def test_a_file_by_path_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert load_space(str(path)).space.name == "mine"


@pytest.mark.parametrize(
    ("text", "value"), [("40M", 40_000_000), ("1.5G", 1_500_000_000), ("200k", 200_000), (7, 7), ("3e6", 3_000_000)]
)
def test_numbers_as_people_write_them(text: object, value: int) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize("value", ["-1", " -5k", -3])
def test_below_zero_is_no_limit_of_anything(value: object) -> None:
    with pytest.raises(ValueError, match="is below 0; nothing that is counted or measured is"):
        parse_number(value)


@pytest.mark.parametrize("text", ["x", True, None, "1T", float("nan"), "1e999"])
def test_what_is_no_number(text: object) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        parse_number(text)


@pytest.mark.parametrize("name", sorted({*list_spaces()} - {"bench"}))
def test_the_base_of_a_built_in_space_is_a_member(name: str) -> None:
    """Or no ablation could vary it, and no search would begin with it. ``bench`` is a grid around its base."""
    space = load_space(name).space
    assert space.validate(space.base) == []


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        (
            ("encoders.*.depths: [[1, 1], [2, 2]]", "encoders.0.depths.1: [1, 2]"),
            r"line 5: encoders\.0\.depths\.1 and encoders\.\*\.depths both set encoders\.0\.depths, and neither",
        ),
        (
            ("encoders.0.depths.*: [1, 2]", "encoders.*.depths.1: [1, 3]"),
            r"line 5: .* both set encoders\.0\.depths\.1, and neither is a special case of the other; leave one out",
        ),
        (("encoders.0.fusion: [none]", "encoders.00.fusion: [none]"), r"line 5: .* both set encoders\.0\.fusion"),
        (
            ("branches.*.embed_dim: [8, 16]", "branches.0.embed_dim: [8]", "branches.1.embed_dim: [16]"),
            r"line 4: branches\.\*\.embed_dim has no place left beside branches\.0\.embed_dim, "
            r"branches\.1\.embed_dim; leave it out, or one of those",
        ),
        (
            (
                "encoders.*.fusion: [none, pairwise]",
                "num_encoders: [1, 2]",
                "encoders.0.fusion: [none]",
                "encoders.1.fusion: [none]",
            ),
            r"line 4: encoders\.\*\.fusion has no place left",
        ),
    ],
)
def test_paths_of_which_none_can_go_before_the_other_are_refused(dimensions: tuple[str, ...], message: str) -> None:
    lines = "".join(f"  {line}\n" for line in dimensions)
    with pytest.raises(SpaceError, match=message):
        parse_space(f"name: mine\nbase: crossvit_nano_16\ndimensions:\n{lines}", "mine.yaml")


def test_a_starred_path_may_have_its_only_places_in_larger_members() -> None:
    text = GOOD.replace(
        "  branches.0", "  num_encoders: [1, 2]\n  encoders.0.fusion: [none, cross_attention]\n  branches.0"
    )
    assert parse_space(text, "mine.yaml").space.size() == 2 * 2 + 2 * 2 * 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (0.25, "0.25"), (999.4, "999"), (999.5, "1 k"), (999, "999"), (1000, "1 k"), (999_499, "999 k"),
        (999_500, "1 M"), (999_900, "1 M"), (1_500_000, "1.5 M"), (999_999_999, "1 G"), (999.7e9, "1 T"),
        (-999_900, "-1 M"), (3.25e12, "3.25 T"), (12_345e12, "12300 T"),
    ],
)  # fmt: skip
def test_a_count_in_three_figures_never_has_an_exponent(value: float, text: str) -> None:
    assert format_number(value) == text


BLAMELESS = """\
name: mine
base: crossvit_micro_32
{fixed}dimensions:
  num_encoders: [1, 2]
  branches.*.embed_dim: [{widths}]
"""


def test_the_dimension_to_blame_is_named_not_the_first_that_it_spoils() -> None:
    with pytest.raises(SpaceError, match=r"line 5: branches\.\*\.embed_dim: the choice 16 .*, or num_heads 2"):
        parse_space(BLAMELESS.format(fixed="", widths="16, 32"), "mine.yaml")
    fixed = "fixed: {image_size: 50}\n"
    with pytest.raises(SpaceError, match=r"line 3: image_size: nothing can be built with 50: .* does not tile"):
        parse_space(BLAMELESS.format(fixed=fixed, widths="48, 96"), "mine.yaml")


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        (Limit("macs", 1_000_000, 4_000_000), "macs from 1 M to 4 M"),
        (Limit("macs", 1_995_000, 2_004_999), "macs from 1,995,000 to 2,004,999"),
        (Limit("latency_ms", 5.001, 5.002), "latency_ms from 5.001 to 5.002"),
        (Limit("params", 3000, 3000), "params from 3 k to 3 k"),
    ],
)
def test_the_two_sides_of_a_narrow_window_read_apart(limit: Limit, words: str) -> None:
    assert limit.describe() == words


def _file(body: str) -> str:
    return f"name: mine\nbase: crossvit_micro_32\n{body}"  # two encoders, widths 48 and 96, three heads each


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (
            "dimensions:\n  branches.1.embed_dim: [96, 192]\n  branches.0.embed_dim: [50]",
            r"line 5: branches\.0\.embed_dim: the choice 50 .*: branch 0: embed_dim 50 is not divisible",
        ),
        (
            "dimensions:\n  branches.1.num_heads: [1, 2]\n  branches.0.num_heads: [5]",
            r"line 5: branches\.0\.num_heads: the choice 5 .*: branch 0",
        ),
        (
            "dimensions:\n  encoders.0.depths.1: [2, 3]\n  encoders.1.depths.1: [-1]",
            r"line 5: encoders\.1\.depths\.1: the choice -1 .*: encoder 1",
        ),
        (
            "fixed: {branches.0.embed_dim: 50}\ndimensions:\n  branches.1.embed_dim: [96, 192]",
            r"line 3: branches\.0\.embed_dim: nothing can be built with 50: branch 0",
        ),
        (
            "fixed: {encoders.7.fusion: none}\ndimensions:\n  num_encoders: [1, 2]",
            r"line 3: encoders\.7\.fusion: no architecture of this space has that encoder; use 0 to 1",
        ),
        (
            "dimensions:\n  num_encoders: [1, 2]\n  encoders.5.fusion: [none, class_token]",
            r"line 5: encoders\.5\.fusion: no architecture of this space has that encoder; use 0 to 1",
        ),
        (
            "fixed: {branches.1.image_size: 16}\ndimensions:\n  image_size: [32]",
            r"line 3: branches\.1\.image_size is fixed, and the dimension image_size varies it",
        ),
        (
            "dimensions:\n  branches.*.image_size: [32, [32, 32]]",
            r"line 4: branches\.\*\.image_size: 32 and \[32, 32\] mean the same; leave one out",
        ),
        (
            "dimensions:\n  encoders.1.windows: [[0, 0], []]",
            r"line 4: encoders\.1\.windows: \[0, 0\] and \[\] mean the same; leave one out",
        ),
        ("dimensions: &d {num_encoders: *d}", r"mine\.yaml: an anchor \(&\) holds itself \(\*\); write the values out"),
    ],
)
def test_the_entry_that_is_wrong_is_named(body: str, says: str) -> None:
    with pytest.raises(SpaceError, match=says):
        parse_space(_file(body), "mine.yaml")


@pytest.mark.parametrize(
    ("fixed", "dimensions", "path", "expected"),
    [
        ("branches.1.image_size: 16, image_size: 32", "num_encoders: [1, 2]", "branches.1.image_size", (16, 16)),
        ("encoders.0.fusion: none, encoders.*.fusion: class_token", "num_encoders: [2]", "encoders.0.fusion", "none"),
        (
            "encoders.0.fusion: none, encoders.*.fusion: class_token",
            "num_encoders: [2]",
            "encoders.1.fusion",
            "class_token",
        ),
        ("encoders.0.depths.1: 3, encoders.*.depths: [1, 2]", "num_encoders: [2]", "encoders.0.depths", [1, 3]),
        ("encoders.2.fusion: none", "num_encoders: [3]", "encoders.2.fusion", "none"),
        ("encoders.2.fusion: none", "num_encoders: [4]", "encoders.3.fusion", "cross_attention"),
        ("num_encoders: 3, encoders.2.fusion: none", "branches.0.embed_dim: [48]", "encoders.2.fusion", "none"),
    ],
)
def test_what_is_fixed_holds_whatever_its_order(fixed: str, dimensions: str, path: str, expected: object) -> None:
    space = parse_space(_file(f"fixed: {{{fixed}}}\ndimensions: {{{dimensions}}}"), "mine.yaml").space
    for member in (space.decode((0,)), space.for_data(num_classes=3, in_channels=1).decode((0,))):
        assert get_path(to_tree(member), path) == [expected]


def test_a_late_encoder_that_is_fixed_leaves_the_base_as_long_as_it_was() -> None:
    text = _file("fixed: {encoders.2.fusion: none}\ndimensions: {num_encoders: [1, 2, 3]}")
    space = parse_space(text, "mine.yaml").space
    for each in (space, space.for_data(num_classes=3, in_channels=1), space.within(())):
        assert len(each.base.encoders) == 2
        assert each.decode((2,)).encoders[2].fusion == "none"
        assert len(each.to_dict()["base"]["encoders"]) == 3  # all that is fixed is on record


def test_a_choice_that_few_combinations_have_can_be_built() -> None:
    primes = [p for p in range(2, 80) if all(p % q for q in range(2, p))]
    lines = [f"  branches.{b}.{name}: {primes}" for b in (0, 1) for name in ("embed_dim", "num_heads")]
    space = parse_space(_file("dimensions:\n" + "\n".join(lines)), "mine.yaml").space
    assert space.size() == len(primes) ** 4
