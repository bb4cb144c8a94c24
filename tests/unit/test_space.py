"""The space: members, vectors, feasibility, size."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from crossvit_core import PRESETS
from crossvit_core.config import FUSION_NAMES
from crossvit_core.cost import count_cost
from space import Dimension, Limit, LimitError, Space, SpaceError, list_spaces, load_space, override_limits
from space.paths import to_tree

BASE = PRESETS["crossvit_nano_16"]


def make_space(*dimensions: tuple[str, tuple], limits: tuple[Limit, ...] = ()) -> Space:
    return Space("test", BASE, tuple(Dimension(path, choices) for path, choices in dimensions), limits)


@pytest.mark.parametrize("name", list_spaces())
def test_built_in_spaces_sample_feasible_members(name: str) -> None:
    space = load_space(name).space
    rng = np.random.default_rng(0)
    for _ in range(50):
        arch = space.sample(rng)
        assert space.validate(arch) == []
        assert space.decode(space.encode(arch)) == arch


def test_size_counts_active_combinations_only() -> None:
    space = make_space(("num_encoders", (1, 2)), ("encoders.1.fusion", ("none", "pairwise")))
    assert space.size() == 1 + 2
    assert len(list(space.vectors())) == 3


def test_an_inactive_dimension_does_not_make_a_second_vector() -> None:
    space = make_space(("num_encoders", (1, 2)), ("encoders.1.fusion", ("none", "pairwise")))
    assert space.canonical((0, 1)) == (0, 0)
    assert space.canonical((1, 1)) == (1, 1)


def test_neighbours_change_one_dimension() -> None:
    space = make_space(("branches.0.embed_dim", (8, 16)), ("branches.1.embed_dim", (16, 32)))
    arch = space.decode((0, 0))
    assert list(space.neighbours(arch)) == [space.decode((1, 0)), space.decode((0, 1))]


def test_size_equals_enumeration_without_limits() -> None:
    space = make_space(("branches.0.embed_dim", (8, 16, 24)), ("encoders.*.fusion", ("none", "class_token")))
    assert space.size() == len(list(space.vectors())) == 6


def test_limits_hold_for_every_enumerated_member() -> None:
    widths = ("branches.0.embed_dim", (8, 16, 24, 32)), ("branches.1.embed_dim", (16, 32, 48, 64))
    macs = [count_cost(make_space(*widths).decode(v)).macs for v in itertools.product(range(4), range(4))]
    middle = sorted(macs)[8]
    space = make_space(*widths, limits=(Limit("macs", maximum=middle),))
    assert len(list(space.vectors())) == sum(m <= middle for m in macs) == 9


def test_a_window_that_one_member_meets_is_found() -> None:
    widths = (
        ("branches.0.embed_dim", tuple(range(8, 80, 8))),
        ("branches.1.embed_dim", tuple(range(8, 80, 8))),
        ("encoders.*.depths.1", tuple(range(1, 9))),
    )
    target = make_space(*widths).decode((3, 4, 5))
    cost = count_cost(target)
    limits = (Limit("macs", cost.macs, cost.macs), Limit("params", cost.params, cost.params))
    space = make_space(*widths, limits=limits)
    assert count_cost(space.sample(np.random.default_rng(0))).macs == cost.macs


def test_a_branch_that_nobody_reads_makes_no_member() -> None:
    """N = 0 is legal where the fusion brings the branch's patches to a class token, and a waste where it does not."""
    space = make_space(("encoders.*.depths.0", (0, 1)), ("encoders.*.fusion", FUSION_NAMES))
    left_out = {
        (arch.encoders[0].depths[0], arch.encoders[0].fusion)
        for vector in itertools.product(range(2), range(len(FUSION_NAMES)))
        for arch in [space.decode(vector)]
        if space.validate(arch)
    }
    # The last encoder's patches, which pairwise fusion adds up, are read by nothing.
    assert left_out == {(0, "none"), (0, "class_token"), (0, "pairwise")}
    assert len(list(space.vectors())) == 10 - 3
    wasteful = space.decode((0, FUSION_NAMES.index("class_token")))
    assert space.validate(wasteful)[0].startswith("branch 0 is never read: it has no block")
    assert space.encode(wasteful) == (0, FUSION_NAMES.index("class_token"))  # what a study knows already stays known


def test_a_space_whose_branches_are_never_read_says_so() -> None:
    space = make_space(("encoders.*.depths.0", (0,)), ("encoders.*.fusion", ("none", "class_token")))
    with pytest.raises(SpaceError, match="no architecture that meets that every branch is read"):
        space.sample(np.random.default_rng(0))


def test_an_empty_space_names_the_limit_and_what_is_reachable() -> None:
    space = make_space(("branches.0.embed_dim", (8, 16)), limits=(Limit("macs", maximum=10),))
    low, high = space.reach("macs")
    with pytest.raises(SpaceError, match=r"the limit macs at most 10 binds; .* reach macs from") as caught:
        space.sample(np.random.default_rng(0))
    assert f"{low / 1e3:.3g} k" in str(caught.value)
    assert f"{high / 1e3:.3g} k" in str(caught.value)


def test_reach_equals_enumeration() -> None:
    space = make_space(
        ("branches.0.embed_dim", (8, 16, 24)),
        ("branches.0.patch_size", (2, 4)),
        ("encoders.*.fusion", ("none", "pairwise")),
    )
    values = [count_cost(space.decode(vector)).macs for vector in space.vectors()]
    assert space.reach("macs") == (min(values), max(values))


def test_nearest_prefers_the_fewest_changes_and_respects_accept() -> None:
    space = make_space(("branches.0.embed_dim", (8, 16, 24)), ("branches.1.embed_dim", (16, 32, 48)))
    rng = np.random.default_rng(0)
    found = space.nearest_vector((1, 1), rng, lambda vector: vector != (1, 1))
    assert found is not None
    assert sum(a != b for a, b in zip(found, (1, 1))) == 1
    assert space.nearest_vector((2, 0), rng, lambda vector: True) == (2, 0)


def test_nearest_ends_when_everything_is_taken() -> None:
    space = make_space(("branches.0.embed_dim", (8, 16)), ("branches.1.embed_dim", (16, 32)))
    assert space.nearest_vector((0, 0), np.random.default_rng(0), lambda vector: False) is None


def test_encode_refuses_a_foreign_architecture() -> None:
    space = make_space(("branches.0.embed_dim", (8, 16)))
    with pytest.raises(SpaceError, match=r"branches\.0\.embed_dim .* none of \[8, 16\]"):
        space.encode(PRESETS["crossvit_micro_16"])
    with pytest.raises(SpaceError, match="a field that is not free"):
        space.encode(BASE.replace(num_classes=3))


def test_the_paper_space_holds_the_published_models() -> None:
    space = load_space("paper").space
    names = ["tiny_240", "small_240", "base_240", "9_240", "15_240", "18_240", "9_dagger_240", "18_dagger_240"]
    for name in names:
        assert space.validate(PRESETS[f"crossvit_{name}"]) == []


def test_for_data_sets_classes_and_channels_everywhere() -> None:
    space = load_space("small").space.for_data(num_classes=3, in_channels=1)
    arch = space.sample(np.random.default_rng(1))
    assert (arch.num_classes, arch.in_channels) == (3, 1)
    assert space.validate(arch) == []


@pytest.mark.parametrize("name", list_spaces())
def test_a_dimension_is_active_where_it_has_a_place(name: str) -> None:
    """The short way, by the number of encoders, agrees with a look at the architecture."""
    space = load_space(name).space
    rng = np.random.default_rng(0)
    for _ in range(40):
        vector = space.random_vector(rng)
        tree = to_tree(space.decode(vector))
        assert space.active_dimensions(vector) == [i for i, d in enumerate(space.dimensions) if d.is_active(tree)]
        assert space.encode(space.decode(vector)) == space.canonical(vector) == vector
        assert space.key(vector) == space.decode(vector).key()


def test_architectures_of_a_space_share_nothing_that_can_change() -> None:
    space = make_space(("encoders.*.depths", ([1, 1], [2, 1])))
    before = space.decode((0,))
    tree = to_tree(before)
    tree["encoders"][0]["depths"][0] = 9
    tree["branches"][0]["embed_dim"] = 9
    assert space.decode((0,)) == before == space.decode((0,))


def overlapping_space() -> Space:
    """Encoder 0 chooses for itself, the others share a choice; so do a branch's depths, by two degrees."""
    return make_space(
        ("num_encoders", (1, 2, 3)),
        ("encoders.0.fusion", ("none", "cross_attention", "pairwise")),
        ("encoders.*.fusion", ("none", "cross_attention")),
        ("encoders.0.depths.0", (1, 2)),
        ("encoders.*.depths.0", (1, 3)),
        ("encoders.*.depths.*", (2, 4)),
    )


def test_a_starred_path_leaves_its_places_to_more_specific_ones() -> None:
    space = overlapping_space()
    arch = space.decode((2, 2, 1, 1, 1, 1))
    assert [encoder.fusion for encoder in arch.encoders] == ["pairwise", "cross_attention", "cross_attention"]
    assert [list(encoder.depths) for encoder in arch.encoders] == [[2, 4], [3, 4], [3, 4]]
    assert space.validate(arch) == []
    # With one encoder nothing is left to the paths that encoder 0 goes before.
    assert space.active_dimensions((0, 0, 0, 0, 0, 0)) == [0, 1, 3, 5]
    with pytest.raises(SpaceError, match=r"encoders\.\*\.fusion .* none of \['none', 'cross_attention'\]"):
        space.encode(arch.replace(encoders=(arch.encoders[0], arch.encoders[0], arch.encoders[0])))


def test_every_vector_of_overlapping_paths_comes_back_from_its_architecture() -> None:
    space = overlapping_space()
    vectors = {space.canonical(v) for v in itertools.product(*(range(len(d.choices)) for d in space.dimensions))}
    assert [v for v in vectors if space.encode(space.decode(v)) != v] == []
    assert len({space.decode(v) for v in vectors}) == len(vectors) == space.size()


@pytest.mark.parametrize("sizes", [(16, 32), ([16, 32], 32, [16, 16])])
def test_every_vector_of_image_sizes_comes_back_from_its_architecture(sizes: tuple) -> None:
    """A number stands for a square; what a branch is given of its own goes before the size of the whole."""
    space = make_space(("branches.0.image_size", sizes), ("image_size", sizes))
    sides = space.decode((1, 0))
    assert (sides.branches[0].size, sides.branches[1].size) == ((32, 32), sides.size)
    vectors = list(itertools.product(range(len(sizes)), repeat=2))
    assert [space.encode(space.decode(vector)) for vector in vectors] == vectors
    with pytest.raises(SpaceError, match=r"image_size .* none of"):
        space.encode(PRESETS["crossvit_small_240"])


def test_a_value_and_a_bound_that_agree_in_three_figures_are_written_in_full() -> None:
    most, least = Limit("macs", maximum=91_400), Limit("throughput_ips", minimum=9200)
    assert most.breach({"macs": 91_424}) == "macs is 91,424, allowed is macs at most 91,400"
    assert least.breach({"throughput_ips": 9199.5}).endswith("is 9,199.5, allowed is throughput_ips at least 9,200")
    window = Limit("macs", minimum=10_000, maximum=91_400)
    assert window.breach({"macs": 91_424}) == "macs is 91,424, allowed is macs from 10,000 to 91,400"
    # Where three figures tell them apart, three figures it is.
    assert most.breach({"macs": 92_424}) == "macs is 92.4 k, allowed is macs at most 91.4 k"
    assert "macs is nan, allowed is" in most.breach({"macs": math.nan})
    with pytest.raises(LimitError, match="is an empty window: min 91,424 is above max 91,400"):
        override_limits([most], [Limit("macs", minimum=91_424)])
