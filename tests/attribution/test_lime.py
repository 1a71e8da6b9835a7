"""LIME: equal to captum for equal masks, scikit-learn's ridge and lasso, and the surrogate of a linear model."""

import captum.attr
import pytest
import torch
from captum._utils.models.linear_model import SkLearnLasso, SkLearnRidge
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution._segments import patches_of
from pellucid.attribution.lime import Lime
from pellucid.core.errors import ConfigError


@pytest.mark.parametrize(("surrogate", "penalty"), [("ridge", 1.0), ("ridge", 1e-3), ("lasso", 0.01)])
def test_agrees_with_captum_for_equal_masks(network, images, targets, surrogate, penalty) -> None:
    patches = patches_of((1, 10, 10), (1, 4, 4))
    options = {"surrogate": surrogate, "regularization": penalty, "samples": 120, "seed": 3, "kernel_width": 0.4}
    analyzer = create_analyzer("lime", network, patch=4, baseline=0.1, **options)
    masks = torch.cat([torch.ones(1, 9), analyzer.method.masks(9)])

    def similarity(original: Tensor, perturbed: Tensor, shown: Tensor, **_: object) -> Tensor:
        cosine = torch.nn.functional.cosine_similarity(shown.double(), torch.ones_like(shown).double())
        return torch.exp(-((1 - cosine) ** 2) / (2 * 0.4**2))

    def drawn(*_: object, **__: object):
        yield from masks[:, None]

    def to_input(shown: Tensor, original: Tensor, **_: object) -> Tensor:
        return torch.where(shown[0].bool()[patches], original, torch.full_like(original, 0.1))

    exact = {"tol": 1e-12, "max_iter": 100_000} if surrogate == "lasso" else {"solver": "cholesky"}
    model = (SkLearnLasso if surrogate == "lasso" else SkLearnRidge)(alpha=penalty, **exact)
    theirs = captum.attr.LimeBase(
        network,
        interpretable_model=model,
        similarity_func=similarity,
        perturb_func=drawn,
        perturb_interpretable_space=True,
        from_interp_rep_transform=to_input,
        to_interp_rep_transform=None,
    )
    ours = analyzer.analyze(images, targets) * patches.flatten().bincount()[patches]
    for number in range(len(images)):
        expected = theirs.attribute(images[[number]], target=int(targets[number]), n_samples=121)[0].double()
        torch.testing.assert_close(
            ours[number], expected[patches], rtol=0, atol=1e-5 * float(expected.abs().max()), check_dtype=False
        )


@pytest.mark.parametrize("seed", range(4))
def test_surrogates_are_those_of_scikit_learn(seed) -> None:
    source = torch.Generator().manual_seed(seed)
    design = (torch.rand(60, 12, generator=source) < 0.5).double()
    scores = torch.randn(60, 3, generator=source, dtype=torch.float64) + design[:, :3] * 2
    for surrogate, penalty in (("ridge", 0.5), ("lasso", 0.05), ("lasso", 0.0)):
        method = Lime(surrogate=surrogate, regularization=penalty)
        coefficients, intercept, fit = method.fit_surrogate(design, scores)
        weights = method.weights(design)
        for column in range(3):
            lasso = Lasso(alpha=penalty, tol=1e-12) if penalty else LinearRegression()
            model = Ridge(alpha=penalty) if surrogate == "ridge" else lasso
            model.fit(design.numpy(), scores[:, column].numpy(), sample_weight=weights.numpy())
            torch.testing.assert_close(coefficients[:, column], torch.from_numpy(model.coef_), rtol=0, atol=1e-6)
            assert float(intercept[column]) == pytest.approx(model.intercept_, abs=1e-6)
            score = model.score(design.numpy(), scores[:, column].numpy(), sample_weight=weights.numpy())
            assert float(fit[column]) == pytest.approx(score, abs=1e-6)


def test_the_surrogate_of_a_linear_model_is_the_model(counting) -> None:
    images = torch.rand(3, 1, 4, 4).double()
    analyzer = create_analyzer("lime", counting, patch=1, regularization=0, baseline=0.5, samples=100)
    explanation = analyzer.explain(images, 0)
    expected = counting.linear.weight[0].detach() * (images - 0.5).flatten(1)
    torch.testing.assert_close(explanation.relevance.flatten(1), expected)
    at_baseline = counting.linear(torch.full((3, 16), 0.5).double())[:, 0].detach()
    torch.testing.assert_close(explanation.details["intercept"], at_baseline)
    torch.testing.assert_close(explanation.details["r_squared"], torch.ones(3).double())


def test_the_lasso_sets_small_coefficients_to_zero() -> None:
    model = nn.Linear(6, 1).double()
    model.weight.data = torch.tensor([[3.0, -2.0, 0.01, 0.0, 0.02, 1.0]]).double()
    x = torch.ones(1, 6).double()
    relevance = create_analyzer("lime", model, surrogate="lasso", regularization=0.05, patch=1).analyze(x, 0)[0]
    assert (relevance != 0).tolist() == [True, True, False, False, False, True]


def test_a_constant_score_has_no_relevance() -> None:
    model = nn.Linear(4, 2).double()
    nn.init.zeros_(model.weight)
    explanation = create_analyzer("lime", model, samples=20).explain(torch.rand(2, 4).double(), 1)
    assert not explanation.relevance.abs().gt(1e-12).any()
    assert bool((explanation.details["r_squared"] <= 1).all())


def test_invalid_options_are_refused(network, images) -> None:
    for options in ({"samples": 0}, {"kernel_width": 0}, {"surrogate": "tree"}, {"regularization": -1}):
        ((option, _),) = options.items()
        with pytest.raises(ConfigError, match=f"the option {option} of Lime"):
            create_analyzer("lime", network, **options)
    with pytest.raises(ConfigError, match="masks of lime do not determine the 25 coefficients"):
        create_analyzer("lime", network, patch=2, samples=10, regularization=0).analyze(images)
