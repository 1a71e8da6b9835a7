"""Token ids that a model shifts or pads before it looks them up stay attributed to their own token."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import create_analyzer
from pellucid.attribution._ids import Lookups
from pellucid.core.errors import UnsupportedOperation

WORDS, WIDTH = 12, 5
IDS = torch.tensor([[3, 4, 5, 3, 2], [7, 8, 2, 0, 0]])


def shifted(ids: Tensor) -> Tensor:
    """As in BART: a start token, then all ids but the last."""
    result = ids.new_zeros(ids.shape)
    result[:, 1:] = ids[:, :-1].clone()
    result[:, 0] = 9
    return result.masked_fill_(result == -100, 0)


def padded(ids: Tensor) -> Tensor:
    return F.pad(ids, (0, 3), value=1)


def wrapped(ids: Tensor) -> Tensor:
    start, end = torch.full((len(ids), 1), 10), torch.full((len(ids), 1), 11)
    return torch.cat([start, ids.to(torch.int64), end], 1).view(-1, ids.shape[1] + 2)


def written_through_a_view(ids: Tensor) -> Tensor:
    result = ids.clone()
    result[:, 2:].copy_(ids[:, :-2])
    return result


MOVES = (shifted, padded, wrapped, written_through_a_view)
POSITIONS = {
    "shifted": [[-1, 0, 1, 2, 3], [-1, 5, 6, 7, 8]],
    "padded": [[0, 1, 2, 3, 4, -1, -1, -1], [5, 6, 7, 8, 9, -1, -1, -1]],
    "wrapped": [[-1, 0, 1, 2, 3, 4, -1], [-1, 5, 6, 7, 8, 9, -1]],
    "written_through_a_view": [[0, 1, 0, 1, 2], [5, 6, 5, 6, 7]],
}


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
def test_positions_follow_the_ids(move) -> None:
    seen = []
    with Lookups(IDS, lambda ids, weight, positions: seen.append(positions)):
        F.embedding(move(IDS), torch.zeros(WORDS, 2))
    assert seen[0].tolist() == POSITIONS[move.__name__]


def test_positions_of_computed_ids_are_unknown() -> None:
    seen = []
    with Lookups(IDS, lambda ids, weight, positions: seen.append(positions)):
        for ids in ((IDS + 1) % WORDS, IDS.clone().fill_(3), torch.zeros_like(IDS)):
            F.embedding(ids, torch.zeros(WORDS, 2))
    assert seen == [None, None, None]


class Both(nn.Module):
    """Reads the ids unchanged and moved, with one shared embedding."""

    def __init__(self, move) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.move, self.words = move, nn.Embedding(WORDS, WIDTH)
        self.encoder, self.decoder, self.head = nn.Linear(WIDTH, 6), nn.Linear(WIDTH, 6), nn.Linear(6, 3)
        self.double()

    def forward(self, ids: Tensor) -> Tensor:
        return self.read(self.words(ids), self.words(self.move(ids)))

    def read(self, first: Tensor, second: Tensor) -> Tensor:
        mixed = torch.tanh(self.encoder(first)).sum(1) * torch.sigmoid(self.decoder(second).cumsum(1).mean(1))
        return self.head(mixed)


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
def test_the_gradient_of_a_token_sums_over_its_lookups(move) -> None:
    model = Both(move)
    rows = model.words(IDS).detach().requires_grad_()
    second = model.words(move(IDS)).detach().requires_grad_()
    gradients = torch.autograd.grad(model.read(rows, second)[:, 1].sum(), [rows, second])
    expected = gradients[0].clone().view(-1, WIDTH)
    positions = torch.tensor(POSITIONS[move.__name__]).flatten()
    for position, gradient in zip(positions, gradients[1].view(-1, WIDTH), strict=True):
        if position >= 0:
            expected[position] += gradient
    found = create_analyzer("gradient", model).explain(IDS, 1)
    torch.testing.assert_close(found.relevance, expected.view(rows.shape))


@pytest.mark.filterwarnings("ignore::pellucid.attribution.AmplificationWarning")
@pytest.mark.parametrize("name", ["lrp.epsilon", "deeplift", "integrated_gradients"])
@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
def test_explanations_are_complete(move, name) -> None:
    model = Both(move)
    options = {"steps": 20} if name == "integrated_gradients" else {}
    explanation = create_analyzer(name, model, **options).explain(IDS, 1)
    assert explanation.residual.abs().max() < (1e-4 if options else 1e-9)
    if name == "lrp.epsilon":
        total = explanation.relevance.flatten(1).sum(1) + sum(explanation.absorbed.values())
        torch.testing.assert_close(total, model(IDS)[:, 1].detach())


def test_ids_that_are_computed_are_refused() -> None:
    with pytest.raises(UnsupportedOperation, match="ids other than the input ids"):
        create_analyzer("gradient", Both(lambda ids: (ids + 1) % WORDS)).analyze(IDS)
