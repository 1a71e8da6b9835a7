import torch

from pellucid.evaluation.pointing_game import PointingGame


def test_the_most_relevant_pixel_decides(masked, given):
    def maps(images, _):
        values = torch.zeros_like(images)
        values[0, 0, 1, 3] = 1.0  # inside the mask
        values[1, 0, 2, 4] = 1.0  # diagonally next to its corner
        return values

    case = masked
    assert PointingGame().measure(case, given(case, maps)).values[:2].tolist() == [1.0, 0.0]
    assert PointingGame(tolerance=1).measure(case, given(case, maps)).values[:2].tolist() == [1.0, 1.0]
    assert bool(PointingGame().measure(case, given(case, maps)).values[2].isnan())
