"""Error rates by slice: intervals that hold at once, corrected tests, and groups of images by column."""

import inspect
import re
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, fisher_exact, hypergeom

from pellucid.core.errors import ConfigError, ShapeError
from pellucid.diagnostics import Sampled, find_slices
from pellucid.diagnostics._partition import partition


def two_sites(counts=((6, 40), (2, 60))):
    """Return outcomes and sites with the given numbers of errors and images."""
    wrong = np.concatenate([np.arange(images) < errors for errors, images in counts])
    return wrong, np.repeat([f"site {number}" for number in range(len(counts))], [images for _, images in counts])


# --- intervals --------------------------------------------------------------------------------------------------


def test_intervals_are_corrected_for_the_number_of_slices():
    wrong, site = two_sites()
    columns = {"site": site, "half": np.arange(100) < 50}
    result = find_slices(wrong, columns)
    assert result.looks == 4
    for one in result.slices:
        expected = binomtest(one.errors, one.images).proportion_ci(1 - 0.05 / 4, "exact")
        assert (one.low, one.high) == pytest.approx((expected.low, expected.high))


def overlapping_columns(draws, images):
    return {
        "site": draws.choice(list("abcd"), images, p=[0.5, 0.3, 0.15, 0.05]),
        "age": draws.normal(size=images),
        "is_old": draws.random(images) < 0.3,
        "day": np.datetime64("2024-01-01") + draws.integers(0, 300, images),
    }


def test_all_intervals_hold_at_once_in_simulation():
    """The coverage of all intervals together is at least nominal, for equal and for different error probabilities."""
    draws, covered = np.random.default_rng(0), 0
    for _ in range(200):
        columns = overlapping_columns(draws, 400)
        probability = np.where(columns["site"] == "b", 0.3, 0.1) * np.where(columns["age"] > 0, 0.5, 1.5)
        result = find_slices(draws.random(400) < probability, columns, confidence=0.9)
        covered += all(one.low <= probability[one.indices].mean() <= one.high for one in result.slices)
    assert covered / 200 >= 0.9


def test_null_data_has_few_false_findings():
    """Where errors are independent of all columns, some slice is significant in at most 5% of the draws."""
    draws, found = np.random.default_rng(1), 0
    for _ in range(200):
        result = find_slices(draws.random(400) < 0.15, overlapping_columns(draws, 400))
        assert result.looks >= 12
        found += any(result.verdict(one) for one in result.slices)
    # three standard deviations above 5% of 200
    assert found <= 10 + 3 * np.sqrt(200 * 0.05 * 0.95)


def test_a_planted_slice_is_found():
    draws = np.random.default_rng(2)
    columns = overlapping_columns(draws, 2000)
    wrong = draws.random(2000) < np.where(columns["site"] == "d", 0.35, 0.05)
    result = find_slices(wrong, columns)
    assert [(one.column, one.value) for one in result.worse] == [("site", "d")]
    assert result.slices[0].value == "d"
    assert result.slices[0].difference == pytest.approx(0.3, abs=0.1)


# --- tests against the rest -------------------------------------------------------------------------------------


def test_p_values_are_fishers_with_holms_correction():
    wrong, site = two_sites(((9, 40), (4, 60), (1, 50)))
    result = {one.value: one for one in find_slices(wrong, {"site": site}).slices}
    p = {}
    for name, one in result.items():
        inside = site == name
        table = [[wrong[inside].sum(), (~wrong[inside]).sum()], [wrong[~inside].sum(), (~wrong[~inside]).sum()]]
        p[name] = fisher_exact(table).pvalue
        # by hand: the probabilities of all tables with the same margins that are at most as probable
        pmf = hypergeom(150, 14, inside.sum()).pmf(np.arange(15))
        assert one.p_value == pytest.approx(pmf[pmf <= pmf[one.errors] * (1 + 1e-7)].sum())
        assert one.p_value == pytest.approx(p[name])
        assert one.difference == pytest.approx(wrong[inside].mean() - wrong[~inside].mean())
    first, second, third = sorted(p, key=p.__getitem__)
    adjusted = [3 * p[first], max(3 * p[first], 2 * p[second]), max(3 * p[first], 2 * p[second], p[third])]
    assert [result[name].adjusted_p for name in (first, second, third)] == pytest.approx(np.minimum(adjusted, 1))


def test_p_values_of_large_and_extreme_tables_agree_with_scipy():
    draws = np.random.default_rng(6)
    for images in (200, 20_000):
        for _ in range(10):
            wrong, inside = draws.random(images) < draws.random() / 4, draws.random(images) < draws.random()
            wrong |= inside & (draws.random(images) < 0.05)
            table = [[(wrong & side).sum(), (~wrong & side).sum()] for side in (inside, ~inside)]
            result = find_slices(wrong, {"inside": inside}, least=1)
            assert [one.p_value for one in result.slices] == pytest.approx([fisher_exact(table).pvalue] * 2, rel=1e-6)


@pytest.mark.parametrize("is_wrong", [False, True])
def test_equal_outcomes_have_no_findings(is_wrong):
    _, site = two_sites()
    result = find_slices(np.full(100, is_wrong), {"site": site})
    assert result.error_rate == is_wrong
    assert {(one.p_value, one.difference) for one in result.slices} == {(1.0, 0.0)}
    assert all((one.low > 0, one.high == 1) == (is_wrong, is_wrong) for one in result.slices)


def test_a_slice_without_a_rest():
    result = find_slices(np.arange(45) < 9, {"site": ["a"] * 40 + ["b"] * 5}, least=6)
    (one,) = result.slices
    assert (one.value, one.images, one.errors) == ("a", 40, 9)
    with_all = find_slices(np.arange(40) < 9, {"rank": np.r_[np.arange(39.0), np.nan]}, least=30)
    assert with_all.slices[0].images == 39
    sampled = find_slices(np.arange(60) < 9, {"site": Sampled(np.arange(40), np.arange(40.0))}, least=40)
    assert np.isnan(sampled.slices[0].difference)
    assert sampled.to_dict()["slices"][0]["difference"] is None


def test_images_outside_a_sample_are_not_part_of_the_rest():
    wrong = np.r_[np.arange(50) < 10, np.ones(50, bool)]
    indices = torch.arange(49, -1, -1)
    result = find_slices(wrong, {"cluster": Sampled(indices, ["a" if index < 25 else "b" for index in indices])})
    first, second = result.slices
    assert (first.value, first.errors, first.images, second.errors) == ("a", 10, 25, 0)
    assert first.indices.tolist() == list(range(25))
    assert first.difference == pytest.approx(0.4)
    assert result.errors == 60


def test_the_order_of_images_and_columns_does_not_matter():
    draws = np.random.default_rng(3)
    columns, wrong = overlapping_columns(draws, 500), draws.random(500) < 0.2
    order = draws.permutation(500)
    result, permuted = (
        find_slices(wrong, columns, pairs=True),
        find_slices(wrong[order], {name: columns[name][order] for name in reversed(columns)}),
    )
    alone = find_slices(wrong, columns)
    assert [one.to_dict() for one in alone.slices] == [one.to_dict() for one in permuted.slices]
    for one, other in zip(alone.slices, permuted.slices, strict=True):
        assert sorted(order[other.indices].tolist()) == one.indices.tolist()
    assert result.looks > alone.looks


def test_pairs_of_columns():
    draws = np.random.default_rng(4)
    site, device = draws.choice(["a", "b"], 600), draws.choice(["x", "y"], 600)
    is_planted = (site == "b") & (device == "y")
    result = find_slices(
        is_planted & (draws.random(600) < 0.5), {"site": site, "device": device, "c": site}, pairs=True
    )
    worst = next(one for one in result.slices if one.column == "site × device" and one.value == "b × y")
    assert worst.indices.tolist() == np.flatnonzero(is_planted).tolist()
    assert result.slices[0].images == worst.images
    # of equal columns, every pair is a slice by itself
    assert not any(one.column == "site × c" for one in result.slices)


# --- groups of images -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["b", "a", None, "a", "b", None], ("a", "b", "(missing)")),
        ([True, None, False, True, None, False], ("false", "true", "(missing)")),
        (np.array([True, False] * 3), ("false", "true")),
        ([2, 10, 2, 10, None, None], ("2", "10", "(missing)")),
        (np.array([2, 10] * 3, np.uint8), ("2", "10")),
        (torch.tensor([0.5, 0.25] * 3, dtype=torch.bfloat16), ("0.25", "0.5")),
        ([Decimal("1.5"), Decimal(2)] * 3, ("1.5", "2")),
        ([float("inf"), 1.0, float("nan")] * 2, ("1", "inf", "(missing)")),
        ([0.1 + 0.2, 0.3] * 3, ("0.3", "0.30000000000000004")),
        ([date(2024, 1, 1), date(2023, 5, 6)] * 3, ("2023-05-06", "2024-01-01")),
        ([datetime(2024, 1, 1, 5, tzinfo=timezone(timedelta(hours=5))), datetime(2024, 1, 1, tzinfo=UTC), None] * 2,
         ("2024-01-01", "(missing)")),
        (np.array(["2024-01-01T10:30", "NaT"] * 3, "datetime64[ns]"), ("2024-01-01 10:30:00", "(missing)")),
        (["", "a"] * 3, ("(empty text)", "a")),
        (["a\udce9", "b"] * 3, ("a\\udce9", "b")),
    ],
)  # fmt: skip
def test_values_of_every_kind(values, names):
    groups = partition(values, bins=5, least=2)
    assert groups.names == names
    assert np.bincount(groups.codes).sum() == 6


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([1, 1, 1], "all its values are equal"),
        ([None, float("nan"), None], "it has no values"),
        (list("abc"), "none of its 3 values has 2 images"),
        ([[1], [2], [3]], "its values are of type list, which cannot be grouped"),
        ([{}, {}, {}], "its values are of type dict, which cannot be grouped"),
        ([b"1"] * 3, "its values are of type bytes, which cannot be grouped"),
        ([1 + 2j] * 3, "its values are of type complex, which cannot be grouped"),
        (["a", 1, True], r"its values are of several types (boolean, number, text)"),
        (np.zeros((3, 2)), "its values have the shape (2,)"),
        (np.array([1, 2, 3], "timedelta64[s]"), "its values are durations; convert them to numbers"),
    ],
)
def test_columns_without_groups(values, reason):
    assert partition(values, bins=5, least=2) == reason
    assert find_slices([True, False, True], {"a": values}, least=2).left_out == {"a": reason}


def test_quantile_bins_never_separate_equal_values():
    draws = np.random.default_rng(5)
    for _ in range(50):
        values = draws.integers(0, 40, 300) * draws.choice([0, 1], 300)
        groups = partition(values, bins=5, least=1)
        bins = [np.unique(values[groups.codes == code]) for code in range(len(groups.names))]
        assert np.concatenate(bins).tolist() == np.unique(values).tolist()  # ascending, and each value in one bin
        assert len(bins) <= 5
    exact = partition(draws.permutation(100), bins=4, least=1)
    assert np.bincount(exact.codes).tolist() == [25] * 4
    assert exact.names == ("0 … 24", "25 … 49", "50 … 74", "75 … 99")


def test_rare_values_form_a_group():
    values = ["common"] * 30 + [f"rare {number}" for number in range(25)]
    assert partition(values, bins=5, least=20).names == ("common", "(other: 25 values)")
    assert partition(values, bins=5, least=26).names == ("common",)
    many = np.repeat(np.arange(60).astype(str), 20)
    groups = partition(many, bins=5, least=20)
    assert len(groups.names) == 51
    assert (groups.names[-1], np.bincount(groups.codes)[-1]) == ("(other: 10 values)", 200)


def test_a_huge_number_is_infinite():
    assert partition([10**400, 1] * 2, bins=5, least=2).names == ("1", "inf")


# --- arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([], {}), {}, ShapeError, "at least one image"),
        ((np.zeros((2, 2)), {}), {}, ShapeError, r"shape \(2, 2\)"),
        (([0.5, 1], {}), {}, ShapeError, "other than 0 and 1"),
        (([0, 1], {"a": [1]}), {}, ShapeError, "'a' has 1 values for 2 images"),
        (([0, 1], {"a": "ab"}), {}, ShapeError, "'a' is of type str"),
        (([0, 1], {"a": Sampled([0, 0], [1, 2])}), {}, ShapeError, "repeat or are outside 0 to 1"),
        (([0, 1], {"a": Sampled([0, 2], [1, 2])}), {}, ShapeError, "repeat or are outside 0 to 1"),
        (([0, 1], {"a": Sampled([0], [1, 2])}), {}, ShapeError, "2 values for 1 indices"),
        (([0, 1], {}), {"least": 0}, ConfigError, "least of find_slices is 0"),
        (([0, 1], {}), {"confidence": 95}, ConfigError, "more than 0 and less than 1"),
    ],
)
def test_invalid_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        find_slices(np.array(arguments[0]), arguments[1], **options)


def test_hostile_names_and_no_columns():
    result = find_slices(np.arange(100) < 20, {"<b>$x$\n": ["</script>", "猫"] * 50, 7: ["a", "b"] * 50})
    assert {one.column for one in result.slices} == {"<b>$x$\n", "7"}
    figure = result.figure("a $title$")
    figure.canvas.draw()
    empty = find_slices([True], {})
    assert (empty.slices, empty.error_rate, empty.looks) == ((), 1.0, 0)


def test_example_of_the_guide_runs():
    text = (Path(__file__).parents[2] / "docs" / "slices.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names = {}
    exec(compile(example, "slices.md", "exec"), names)
    assert names["result"].looks > 7


def test_large_whole_numbers_are_not_rounded():
    large = [2**60, 2**60 + 1] * 2
    assert partition(large, bins=5, least=2).names == ("1152921504606846976", "1152921504606846977")
    assert "too large" in partition([*large, None], bins=5, least=2)


def test_names_of_groups_differ():
    assert partition(["(missing)", None] * 2, bins=5, least=2).names == ("(missing)", "(missing) #2")
    assert partition(["caf\udce9", "caf\\udce9"] * 2, bins=5, least=2).names == ("caf\\udce9", "caf\\udce9 #2")


def test_values_at_the_limits():
    assert "microseconds" in partition(np.array(["2020", "300000"] * 2, "datetime64[Y]"), bins=5, least=2)
    nanoseconds = np.array([1, 10**10 + 1] * 2).astype("datetime64[ns]")
    assert len(partition(nanoseconds, bins=5, least=2).names) == 2
    masked = np.ma.array([7, 2] * 2, mask=[True, False] * 2)
    assert partition(masked, bins=5, least=2).names == ("2", "(missing)")
    assert partition([Decimal("sNaN"), Decimal(1)] * 2, bins=5, least=2).names == ("1", "(missing)")
    early = [datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=5))), datetime(2020, 1, 1, tzinfo=UTC)]
    assert partition(early * 2, bins=5, least=2).names == ("0001-01-01", "2020-01-01")


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({1: ["a", "b"], "1": ["c", "d"]}, ConfigError, "more than one column has the name '1'"),
        ([1, 2], ShapeError, "columns is of type list"),
        ({"a": np.array(3)}, ShapeError, "'a' is of type ndarray; pass one value per image"),
        ({"a": {1, 2}}, ShapeError, "'a' is of type set; pass one value per image"),
        ({"a": Sampled(np.array([True, False]), [1, 2])}, ShapeError, r"dtype bool; pass a list of integers"),
        ({"a": Sampled(np.array([0.7, 1.2]), [1, 2])}, ShapeError, r"dtype float64; pass a list of integers"),
    ],
)
def test_columns_that_are_none(columns, error, message):
    with pytest.raises(error, match=message):
        inspect.unwrap(find_slices)([True, False], columns)
