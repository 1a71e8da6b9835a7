import torch

from pellucid.evaluation.relevance_rank import RelevanceRank


def test_the_value_is_the_share_of_the_top_pixels_in_the_mask(masked, given):
    order = torch.arange(64, 0, -1, dtype=torch.float64).reshape(8, 8)
    result = RelevanceRank().measure(masked, given(masked, lambda images, _: order.expand_as(images)))
    assert result.values[:2].tolist() == [0.5, 0.5]  # the top 8 pixels are row 0, the mask half of rows 0-1
    assert bool(result.values[2].isnan())


def test_relevance_is_summed_over_channels(make_case, given):
    case = make_case(torch.nn.Flatten(), channels=2, size=(8, 8))
    case.masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    case.masks[:, :2, :4] = True

    def maps(images, _):
        values = torch.zeros_like(images)
        values[:, 0, :2, :4] = 1.0
        values[:, 1, :2, :4] = -1.0
        values[:, :, 4:6, :4] = 0.1
        return values

    assert RelevanceRank().measure(case, given(case, maps)).values.tolist() == [0.0, 0.0, 0.0]
