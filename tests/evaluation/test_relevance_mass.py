import torch

from pellucid.evaluation.relevance_mass import RelevanceMass


def test_the_value_is_the_share_of_positive_relevance_in_the_mask(masked, given):
    def maps(images, _):
        values = torch.zeros_like(images)
        values[0, 0, 0, 0], values[0, 0, 7, 7], values[0, 0, 5, 5] = 3.0, 1.0, -9.0
        values[1] = -1.0
        return values

    result = RelevanceMass().measure(masked, given(masked, maps)).values
    assert float(result[0]) == 0.75
    assert bool(result[1:].isnan().all())  # no positive relevance; no mask


def test_a_random_map_has_the_masks_share_of_the_area(make_case, by_name):
    case = make_case(torch.nn.Flatten(), count=400, size=(16, 16))
    case.masks = torch.zeros(400, 16, 16, dtype=torch.bool)
    case.masks[:, 4:8, 4:12] = True
    result = RelevanceMass().measure(case, by_name(case, "random")).values
    assert abs(float(result.mean()) - 32 / 256) < 0.01
