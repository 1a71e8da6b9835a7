"""Networks of timm: every method gives the right value in both precisions."""

import pytest
from checks import METHODS, Case, assert_outputs_differ, assert_right

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("ignore")]
NAMES = (
    "timm/convit_tiny",
    "timm/convnextv2_atto",
    "timm/efficientvit_b0",
    "timm/nf_regnet_b0",
    "timm/resmlp_12_224",
    "timm/xcit_nano_12_p16_224",
)


@pytest.mark.parametrize("architecture", NAMES)
def test_outputs_differ(case: Case, architecture: str) -> None:
    assert_outputs_differ(case)


@pytest.mark.parametrize("architecture", NAMES)
@pytest.mark.parametrize("method", METHODS)
def test_explained_and_right(case: Case, architecture: str, method: str) -> None:
    assert_right(case, method)
