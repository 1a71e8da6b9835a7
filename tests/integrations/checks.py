"""Explain an architecture with pellucid and compare every value with an independent one."""

import contextlib
import re
import statistics
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import oracles
import torch
from case import TARGET, Case
from secants import Unknown, secants
from torch import Tensor, nn

from pellucid import jacobian
from pellucid.errors import PellucidError

METHODS = ("gradient", "lrp.epsilon", "deeplift", "integrated_gradients", "guided_backprop", "grad_cam", "occlusion",
           "jacobian")  # fmt: skip
DTYPES = ("float64", "float32")
NOT_FOR_TOKENS = ("grad_cam", "occlusion")
"""Methods that explain regions of an image, which a text does not have."""
ROWS = [3, 0]
"""Outputs whose Jacobian rows are checked."""
STEPS = 3
"""Points of integrated gradients."""
EXACT = 1e-6
"""Largest relative error in float64 where both sides compute the same numbers."""
DIFFERENCES = 2e-3
"""Largest relative error in float64 against central differences."""
SECANTS = 1e-3
"""Largest relative error of LRP-0, whose ε of 1e-12 is not quite 0, against the network of secants."""
SUMS = 1e-3
"""Largest residual of a sum in float32, relative to the logit or Σ|R|."""
SINGLE = 0.1
"""Smallest tolerance in float32, where rounding moves units across their kinks. Networks that lose more in plain
autograd get as much more, and those that compute parts in float32 whatever their dtype get it in float64 too."""


@dataclass
class Result:
    """One method on one architecture in one precision."""

    method: str
    dtype: str
    verdict: str = "right"
    """right, warned (inexact, and a warning says so), refused, silent (wrong without a word), or foreign (an exception
    of another library)."""
    message: str = ""
    errors: dict[str, float] = field(default_factory=dict)
    """Relative error of each check."""
    warned: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return {key: value for key, value in asdict(self).items() if value not in ("", [], {})}


Check = Callable[[Case, Any, str], dict[str, tuple[float, float]]]
"""Maps (case in float64, what the method returned, dtype) to {check: (error, tolerance)}."""


def _tolerance(case: Case, dtype: str, double: float, single: float = SINGLE) -> float:
    return double if dtype == "float64" and not case.has_islands else max(single, double)


def check_gradient(case: Case, map_: Any, dtype: str) -> dict[str, tuple[float, float]]:
    """Compare a gradient with central differences."""
    allowed = _tolerance(case, dtype, DIFFERENCES)
    return {"differences": (case.differences.error(map_.double(), TARGET, allowed), allowed)}


def check_jacobian(case: Case, rows: Any, dtype: str) -> dict[str, tuple[float, float]]:
    """Compare rows of a Jacobian with central differences of their outputs."""
    allowed = _tolerance(case, dtype, DIFFERENCES)
    errors = [case.differences.error(rows[:, place].double(), output, allowed) for place, output in enumerate(ROWS)]
    return {"differences": (max(errors), allowed)}


def check_path(case: Case, explanation: Any, dtype: str) -> dict[str, tuple[float, float]]:
    """Compare integrated gradients with differences along the path, and the reported residual with the logits.

    If every difference crosses a kink at some point of the path, plain autograd takes their place.
    """
    allowed = _tolerance(case, dtype, 3 * DIFFERENCES)
    if dtype == "float32":
        allowed = max(allowed, 3 * oracles.relative(_plain_path(case, "float32"), _plain_path(case, "float64")))
    error = case.differences.path_error(explanation.relevance.double(), TARGET, STEPS, allowed)
    slopes = {"differences": (error, allowed)}
    if error > allowed and dtype == "float64":
        # such networks amplify rounding, too
        slopes = {"autograd": (oracles.relative(explanation.relevance, _plain_path(case, "float64")), 100 * EXACT)}
    missing = _total(explanation) - (case.measured(case.x) - case.measured(torch.zeros_like(case.x)))
    tolerance = _tolerance(case, dtype, 1e-9, SUMS)
    return {**slopes, "residual": (_share(missing - explanation.residual.double(), explanation), tolerance)}


def _plain_path(case: Case, dtype: str) -> Tensor:
    """Integrated gradients by plain autograd; in float32, some random networks lose much of it to rounding."""
    case.to(dtype)
    places, weights = np.polynomial.legendre.leggauss(STEPS)
    slopes = [
        float(weight / 2) * oracles.autograd(case.score, case.x * float((place + 1) / 2))
        for place, weight in zip(places, weights, strict=True)
    ]
    path = (torch.stack(slopes).sum(0) * case.x).double()
    case.to("float64")
    return path


def check_sum(case: Case, explanation: Any, dtype: str) -> dict[str, tuple[float, float]]:
    """Compare DeepLIFT's sum with the change of the logit from the baseline."""
    due = case.measured(case.x) - case.measured(torch.zeros_like(case.x))
    return {"sum": (_share(_total(explanation) - due, explanation), _tolerance(case, dtype, 1e-8, SUMS))}


def check_ledger(case: Case, explanation: Any, dtype: str) -> dict[str, tuple[float, float]]:
    """Compare the sum of relevance and absorbed shares with the logit, and LRP-0 with the network of secants."""
    absorbed = sum(share.double() for share in explanation.absorbed.values())
    missing = _total(explanation) + absorbed - case.measured(case.x)
    errors = {"ledger": (_share(missing, explanation), _tolerance(case, dtype, 1e-8, SUMS))}
    if dtype == "float64":
        with contextlib.suppress(Unknown), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with secants(case.model):
                own = case.x * oracles.autograd(case.score, case.x)
            zero = case.analyzer("lrp.epsilon", epsilon=1e-12).analyze(case.given, TARGET)
            errors["secants"] = oracles.relative(zero, own), SECANTS
    return errors


def check_guided(case: Case, map_: Any, dtype: str) -> dict[str, tuple[float, float]]:
    """Compare Guided Backprop with autograd through rectifiers that block negative signals."""
    with oracles.guided(case.model):
        own = oracles.autograd(case.score, case.x)
    return {"hooks": (oracles.relative(map_, own), _tolerance(case, dtype, EXACT))}


def check_cam(case: Case, explanation: Any, dtype: str) -> dict[str, tuple[float, float]]:
    """Compare a Grad-CAM map with one from the same feature maps by hand."""
    note = next(note for note in explanation.notes if note.startswith("feature maps from"))
    operation, sizes = re.match(r"feature maps from the output of (\w+).*: ([\d×]+)$", note).groups()
    shape = tuple(map(int, sizes.split("×")))
    error = oracles.cam_error(case.score, case.x, operation, shape, explanation.details["map"].double())
    return {"hooks": (error, _tolerance(case, dtype, EXACT))}


def check_occlusion(case: Case, map_: Any, dtype: str) -> dict[str, tuple[float, float]]:
    """Compare with windows hidden by hand."""
    own = case.occluded
    size = float(case.measured(case.x).abs().max())
    error = float((map_.double() - own).abs().max()) / max(float(own.abs().max()), 1e-6 * size)
    return {"masking": (error, _tolerance(case, dtype, EXACT))}


def _total(explanation: Any) -> Tensor:
    return explanation.relevance.double().flatten(1).sum(1)


def _share(missing: Tensor, explanation: Any) -> float:
    """Missing relevance relative to the larger of the logit and Σ|R|."""
    size = explanation.relevance.double().flatten(1).abs().sum(1)
    size = torch.maximum(size, explanation.logits[:, TARGET].double().abs())
    return float((missing.abs() / size.clamp(min=1e-12)).nan_to_num(torch.inf).max())


def _run(case: Case, method: str) -> Any:
    """Call the method as a user would."""
    x, target = case.given, TARGET
    if method == "jacobian":
        return jacobian(case.logits, case.x, outputs=ROWS)
    if method in ("gradient", "guided_backprop"):
        return case.analyzer(method).analyze(x, target)
    if method == "occlusion":
        windows = {} if case.architecture.reads_tokens else case.windows
        return case.analyzer(method, **windows).analyze(x, TARGET)
    options = {"steps": STEPS} if method == "integrated_gradients" else {}
    return case.analyzer(method, **options).explain(x, target)


CHECKS: dict[str, Check] = {
    "gradient": check_gradient,
    "lrp.epsilon": check_ledger,
    "deeplift": check_sum,
    "integrated_gradients": check_path,
    "guided_backprop": check_guided,
    "grad_cam": check_cam,
    "occlusion": check_occlusion,
    "jacobian": check_jacobian,
}
HONEST = ("CompletenessWarning",)
"""Warnings that say that a map misses its sum."""


def examine(case: Case, method: str, dtype: str) -> Result:
    """Explain in one precision and judge the result."""
    result, started = Result(method, dtype), time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        case.to(dtype)
        try:
            value = _run(case, method)
        except PellucidError as error:
            result.message = " ".join(str(error).split())
            does_not_apply = case.architecture.reads_tokens and method in NOT_FOR_TOKENS
            is_named = does_not_apply or names_a_place(result.message, case.model)
            result.verdict = "refused" if is_named else "unnamed"
        except Exception as error:  # noqa: BLE001
            result.verdict, result.message = "foreign", _described(error)
        finally:
            case.to("float64")
    result.seconds = round(time.perf_counter() - started, 3)
    result.warned = sorted(
        {type_.category.__name__ for type_ in caught} & {"CompletenessWarning", "AmplificationWarning"}
    )
    if result.verdict == "right":
        judge(result, case, value)
    return result


def judge(result: Result, case: Case, value: Any) -> None:
    """Compare a value with the independent one, and set the verdict."""
    checks = CHECKS[result.method](case, value, result.dtype)
    result.errors = {name: float(f"{error:.2g}") for name, (error, _) in checks.items()}
    off = {name: pair for name, pair in checks.items() if not pair[0] <= pair[1]}
    if off and (result.dtype == "float32" or case.has_islands):
        off = {name: (error, most) for name, (error, most) in off.items() if not error <= 30 * case.noise()}
    if off:
        is_told = result.method != "integrated_gradients" and any(name in HONEST for name in result.warned)
        result.verdict = "warned" if is_told else "silent"
        result.message = "; ".join(
            f"{name} is off by {error:.2g}, allowed {most:.2g}" for name, (error, most) in off.items()
        )


def names_a_place(message: str, model: nn.Module) -> bool:
    """True if a refusal names an operation, and a module of the model or the model itself."""
    paths = [path for path, _ in model.named_modules() if path]
    is_placed = "the model itself" in message or any(f"'{path}'" in message for path in paths)
    return is_placed and re.search(r"(operation|embedding) '[\w.]+'|\b\w+ in ('|the model itself)", message) is not None


def _described(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f"{frame.filename.rpartition('pellucid/')[2]}:{frame.lineno}"
        for frame in frames
        if "/pellucid/" in frame.filename
    ]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} (at {', '.join(own[-3:])})"


def cost(case: Case, rounds: int = 3) -> float:
    """Time of lrp.epsilon in forward passes: the median of interleaved rounds, in float32."""
    case.to("float32")
    analyzer, ratios = case.analyzer("lrp.epsilon"), []
    x, given = case.x, case.given
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        analyzer.analyze(given, TARGET)
        case.measured(x)
        for _ in range(rounds):
            started = time.perf_counter()
            case.measured(x)
            between = time.perf_counter()
            analyzer.analyze(given, TARGET)
            ratios.append((time.perf_counter() - between) / (between - started))
    case.to("float64")
    return round(statistics.median(ratios), 2)


def assert_right(case: Case, method: str, refusal: str = "") -> None:
    """Explain in both precisions; fail unless every value is right, or the method refuses with the expected words."""
    if case.architecture.reads_tokens and method in NOT_FOR_TOKENS:
        refusal = "which tokens do not have"
    for dtype in DTYPES:
        result = examine(case, method, dtype)
        assert result.verdict == ("refused" if refusal else "right"), result
        assert refusal in result.message


def assert_outputs_differ(case: Case) -> None:
    """Fail if the logits hardly depend on the input or the class, so that any map would pass."""
    with torch.no_grad():
        logits = case.logits(case.x)
    assert float((logits[0] - logits[1]).abs().max()) > 1e-2 * float(logits.std())
    assert float(logits.std(1).min()) > 1e-3
