import torch
from torch import nn

from pellucid.training.retrain import retrain_and_predict


def test_the_retrained_copy_learns_and_the_model_is_unchanged():
    draws = torch.Generator().manual_seed(0)
    images, labels = torch.rand(900, 1, 4, 4, generator=draws), torch.randint(2, (900,), generator=draws)
    images[:, 0, 1:3, 1:3] = labels.float()[:, None, None]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).requires_grad_(False).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second, other = (
        retrain_and_predict(model, images[:800], labels[:800], images[800:], seed) for seed in (0, 0, 1)
    )
    assert float((first.argmax(1) == labels[800:]).double().mean()) > 0.95
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
