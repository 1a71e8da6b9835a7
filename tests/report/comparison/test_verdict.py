"""Conclusions of a comparison: differences are claimed only beyond the noise."""

import numpy as np
import pytest

from pretended_comparison import comparison_of, pretended

COUNT = 1000
LABELS = np.arange(COUNT) % 3


def with_errors(*wrong: range) -> np.ndarray:
    """Return predictions that are wrong for these images."""
    predictions = LABELS.copy()
    for part in wrong:
        predictions[list(part)] = (predictions[list(part)] + 1) % 3
    return predictions


def test_identical_models_give_no_claim() -> None:
    one = with_errors(range(50))
    verdict = comparison_of(pretended("a", LABELS, one), pretended("b", LABELS, one, model="mlp")).verdict()
    assert verdict == ["a and b classify the same test images correctly (95.00% of 1,000)."]


def test_a_copy_of_a_run_is_named_as_such() -> None:
    one = with_errors(range(50))
    verdict = comparison_of(pretended("a", LABELS, one), pretended("copy", LABELS, one)).verdict()
    assert verdict == ["a and copy have the same settings and seed, and identical predictions."]


def test_seeds_are_noise_however_large_their_difference() -> None:
    models = (pretended("a", LABELS, with_errors(range(10))), pretended("b", LABELS, with_errors(range(300)), seed=1))
    verdict = comparison_of(*models).verdict()
    assert verdict[0] == (
        "a and b differ only in their seed, so their differences in accuracy (70.00% to 99.00%) are seed noise."
    )
    assert not any("more accurate" in sentence for sentence in verdict)


def test_a_small_difference_between_networks_is_not_claimed() -> None:
    models = (
        pretended("a", LABELS, with_errors(range(50))),
        pretended("b", LABELS, with_errors(range(45, 90)), model="mlp"),
    )
    comparison = comparison_of(*models)
    assert comparison.verdict()[0].startswith(
        "No significant difference in accuracy between a and b on 1,000 test images: 95.00% and 95.50%, −0.50 ["
    )
    assert comparison.pairs[0].p > 0.05


def test_a_large_difference_is_claimed_for_the_networks_only() -> None:
    models = (
        pretended("a", LABELS, with_errors(range(100))),
        pretended("b", LABELS, with_errors(range(20)), model="mlp"),
    )
    first = comparison_of(*models).verdict()[0]
    assert first.startswith("b is more accurate than a on 1,000 test images: 98.00% vs. 90.00%, +8.00 [+6.")
    assert first.endswith(
        "p < 0.001. This holds for these two networks only: with one seed each, the seed alone could be the cause."
    )


def test_epochs_of_one_run_need_no_such_caveat() -> None:
    models = (
        pretended("a", LABELS, with_errors(range(100)), epoch=1),
        pretended("a", LABELS, with_errors(range(20)), epoch=2),
    )
    first = comparison_of(*models).verdict()[0]
    assert first.startswith("Epoch 2 is more accurate than epoch 1")
    assert "seed" not in first


def test_the_best_epoch_has_an_article_in_sentences() -> None:
    models = (
        pretended("a", LABELS, with_errors(range(20))),
        pretended("a", LABELS, with_errors(range(100)), epoch=1),
    )
    verdict = comparison_of(*models).verdict()
    assert verdict[0].startswith("The best epoch is more accurate than epoch 1 on 1,000 test images")
    assert verdict[1] == "80 test images are classified correctly only by the best epoch, and 0 only by epoch 1."


def seeds(name: str, errors: list[int], **config: str) -> list:
    return [
        pretended(f"{name}{seed}", LABELS, with_errors(range(count)), seed=seed, **config)
        for seed, count in enumerate(errors)
    ]


def test_settings_with_seeds_are_compared_over_the_seeds() -> None:
    comparison = comparison_of(*seeds("a", [100, 104, 108]), *seeds("b", [20, 24, 25], model="mlp"))
    verdict = comparison.verdict()
    assert verdict[0].startswith(
        "b0 (3 seeds) is more accurate than a0 (3 seeds) on these 1,000 test images, beyond seed noise: +8.10 ["
    )
    assert sum("more accurate" in sentence for sentence in verdict) == 1  # not once per seed
    assert {pair.seeds_p for pair in comparison.pairs if pair.seeds is not None} == {comparison.pairs[0].seeds.p}


def test_a_difference_within_the_spread_of_the_seeds_is_not_claimed() -> None:
    # every pair of networks differs significantly on the images, but so do the seeds of one setting
    verdict = comparison_of(*seeds("a", [20, 100]), *seeds("b", [60, 150], model="mlp")).verdict()
    assert verdict[0].startswith(
        "No difference in accuracy between a0 (2 seeds) and b0 (2 seeds) beyond seed noise: +4.50 ["
    )
    assert verdict[1] == "Two seeds give a poor estimate of the seed noise; train more."
    assert not any("more accurate" in sentence for sentence in verdict)


def test_seeds_without_spread_prove_nothing() -> None:
    verdict = comparison_of(*seeds("a", [50, 50]), *seeds("b", [20, 20], model="mlp")).verdict()
    assert verdict[0] == (
        "The difference in accuracy between a0 (2 seeds) and b0 (2 seeds) cannot be tested: the accuracy does not vary "
        "between seeds, so there is no estimate of the seed noise."
    )


def test_p_values_are_adjusted_for_the_number_of_pairs() -> None:
    others = [pretended(f"b{number}", LABELS, with_errors(range(50 + 6)), model=f"mlp{number}") for number in range(10)]
    alone = comparison_of(pretended("a", LABELS, with_errors(range(50))), others[0])
    together = comparison_of(pretended("a", LABELS, with_errors(range(50))), *others)
    assert "is more accurate" in alone.verdict()[0]
    assert alone.pairs[0].p == pytest.approx(2 / 2**6)
    assert together.pairs[0].p == pytest.approx(min(1, 10 * 2 / 2**6))
    assert not any("is more accurate" in sentence for sentence in together.verdict())


def test_the_largest_change_of_the_confusions_is_named() -> None:
    one, two = LABELS.copy(), LABELS.copy()
    cats = np.flatnonzero(LABELS == 0)
    one[cats[:40]], two[cats[40:45]] = 2, 2
    verdict = comparison_of(pretended("a", LABELS, one), pretended("b", LABELS, two, model="mlp")).verdict()
    assert "The confusion that differs most is cat predicted as owl: 40 images by a, 5 by b." in verdict
    assert "5 test images are classified correctly only by a, and 40 only by b." in verdict


def test_numbers_are_json() -> None:
    import json

    numbers = comparison_of(*seeds("a", [20, 100]), *seeds("b", [60, 150], model="mlp")).to_dict()
    assert json.loads(json.dumps(numbers))["models"][1]["accuracy"] == 0.9
    assert [pair["accuracy"]["difference"] for pair in numbers["pairs"]] == pytest.approx([0.04, 0.13, 0.08])


def test_undefined_numbers_are_null() -> None:
    import json

    # seeds without any spread
    numbers = comparison_of(*seeds("a", [20, 20]), *seeds("b", [60, 60], model="mlp")).to_dict()
    assert json.loads(json.dumps(numbers, allow_nan=False))["pairs"][0]["seeds"]["low"] is None


def test_a_long_list_of_comparisons_is_cut() -> None:
    others = [pretended(f"b{number}", LABELS, with_errors(range(100)), model=f"mlp{number}") for number in range(6)]
    verdict = comparison_of(pretended("a", LABELS, LABELS), *others).verdict()
    assert sum("a is more accurate" in sentence for sentence in verdict) == 4
    assert "The table of differences has 2 more comparisons." in verdict
