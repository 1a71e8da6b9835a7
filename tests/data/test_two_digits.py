import torch

from pellucid.data import Request, load_data


def test_the_mask_covers_the_framed_digit_of_the_class(tmp_path):
    data = load_data("two_digits:digits", Request(tmp_path))
    plain = load_data("digits", Request(tmp_path))
    part = data.test
    assert part.image_shape == (1, 24, 48)
    assert torch.equal(part.labels, plain.test.labels)
    frames = torch.stack([part.pixels[:, 0, 0, :24], part.pixels[:, 0, 0, 24:]], 1)
    is_framed = (frames == 255).all(2)
    assert bool((is_framed.sum(1) == 1).all())
    assert torch.equal(part.masks[:, 12, 5], is_framed[:, 0])
    assert torch.equal(part.masks[:, 12, 40], is_framed[:, 1])
    assert 0.4 < float(is_framed[:, 0].double().mean()) < 0.6
    for image in range(10):
        left = 0 if bool(is_framed[image, 0]) else 24
        inner = part.pixels[image, :, 1:-1, left + 1 : left + 23]
        assert torch.equal(inner, plain.test.pixels[image, :, 3:-3, 3:-3])
