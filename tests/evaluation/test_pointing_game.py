import torch

from pellucid.evaluation.pointing_game import PointingGame


def test_the_first_pixel_decides(masked, given):
    def maps(images, _):
        values = torch.zeros_like(images)
        values[0, 0, 1, 3] = 1.0  # within
        values[1, 0, 2, 4] = 1.0  # beside the corner
        return values

    case = masked
    assert PointingGame().measure(case, given(case, maps)).values[:2].tolist() == [1.0, 0.0]
    assert PointingGame(tolerance=1).measure(case, given(case, maps)).values[:2].tolist() == [1.0, 1.0]
    assert bool(PointingGame().measure(case, given(case, maps)).values[2].isnan())
