"""Fixture for runs whose pictures are not looked at closely."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def plain_pictures():
    """Draw figures with one pixel per dot, in less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pellucid.run.hook_runner.SHARP", 1)
        yield
