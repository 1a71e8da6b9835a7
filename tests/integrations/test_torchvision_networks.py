"""Networks of torchvision: every method gives the right value in both precisions."""

import pytest
from architectures import catalog
from checks import METHODS, Case, assert_outputs_differ, assert_right

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
NAMES = (
    "torchvision/lraspp_mobilenet_v3_large",
    "torchvision/resnet18",
    "torchvision/shufflenet_v2_x0_5",
    "torchvision/squeezenet1_1",
)


@pytest.mark.parametrize("architecture", NAMES)
def test_outputs_differ(case: Case, architecture: str) -> None:
    assert_outputs_differ(case)


@pytest.mark.parametrize("architecture", NAMES)
@pytest.mark.parametrize("method", METHODS)
def test_explained_and_right(case: Case, architecture: str, method: str) -> None:
    assert_right(case, method)


def test_the_catalog_is_as_large_as_promised() -> None:
    names = [architecture.name for architecture in catalog()]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("timm/") for name in names) >= 120
    assert sum(name.startswith("torchvision/") for name in names) >= 15
    assert sum(name.startswith("transformers/") for name in names) >= 25
