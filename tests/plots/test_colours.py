import numpy as np
import pytest

from pellucid.plots.colours import class_colours, scale_limit, signed_norm, signed_palette


@pytest.mark.parametrize("count", [1, 2, 10, 11, 100])
def test_every_class_has_a_distinct_color(count: int) -> None:
    colours = class_colours(count)
    assert colours.shape == (count, 3)
    assert colours.min() >= 0
    assert colours.max() <= 1
    assert len(np.unique(colours, axis=0)) == count


def test_zero_is_the_middle_of_a_signed_scale() -> None:
    red, green, blue, _ = signed_palette()(signed_norm(3.0)(0.0))
    assert min(red, green, blue) > 0.95
    assert signed_palette()(signed_norm(3.0)(-3.0))[2] > signed_palette()(signed_norm(3.0)(-3.0))[0]


def test_a_few_outliers_do_not_determine_the_scale() -> None:
    values = np.ones(10_000)
    values[:5] = 1000
    assert scale_limit(values) == 1
    values[:] = 0
    values[3] = -2
    assert scale_limit(values) == 2
    assert scale_limit(np.array([np.nan, 0.5])) == 0.5
    assert scale_limit(np.array([])) == 1
