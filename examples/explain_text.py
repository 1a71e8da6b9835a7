"""Train a small transformer to tell good reviews from bad ones, and show which words it decides by.

python examples/explain_text.py [FOLDER]

The reviews are made here, by a grammar of film words: a subject, an adverb and an opinion, one or two clauses joined by
"and" or "but", where "not" turns the opinion round and the clause after "but" decides. So what matters is known: the
opinions, "not" and "but", and no name of an actor. FOLDER (default: save/example) gets `words.html`.
"""

import random
import sys
from pathlib import Path

import rich
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pellucid
from pellucid.plots.tokens import TokenRow, tokens_html, tokens_text

SUBJECTS = [
    "the plot",
    "the acting",
    "the music",
    "the film",
    "the ending",
    "every scene",
    "the cast",
    "the camera work",
]
ADVERBS = ["really", "truly", "quite", "simply", "often", "rather"]
GOOD = ["wonderful", "moving", "brilliant", "funny", "clever", "gripping", "charming", "superb"]
BAD = ["dull", "awful", "clumsy", "boring", "lazy", "predictable", "tedious", "shallow"]
CLASSES = ("bad", "good")
PADDING, LENGTH = "·", 16


def clause(draw: random.Random) -> tuple[list[str], int]:
    """Words, and whether they praise."""
    is_good, is_turned = draw.random() < 0.5, draw.random() < 0.35
    opinion = draw.choice(GOOD if is_good else BAD)
    words = [*draw.choice(SUBJECTS).split(), "is", draw.choice(ADVERBS), *(["not"] if is_turned else []), opinion]
    return words, int(is_good != is_turned)


def review(draw: random.Random) -> tuple[list[str], int]:
    """One review and its class: the last clause after "but" decides, and clauses joined by "and" agree."""
    words, label = clause(draw)
    if draw.random() < 0.6:
        more, other = clause(draw)
        words, label = [*words, "and" if other == label else "but", *more], other
    return words, label


def encode(reviews: list[list[str]], vocabulary: dict[str, int]) -> Tensor:
    """(review, token): ids, padded at the end."""
    rows = [[vocabulary[word] for word in words] for words in reviews]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])


class Classifier(nn.Module):
    """A transformer encoder of two layers over word and position embeddings, averaged over the words."""

    def __init__(self, words: int, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.places = nn.Embedding(LENGTH, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, len(CLASSES))

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids (review, token) to logits (review, class)."""
        is_word = ids != 0
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        x = self.encoder(x, src_key_padding_mask=~is_word)
        return self.head((x * is_word[..., None]).sum(1) / is_word.sum(1, keepdim=True))


def train(model: nn.Module, ids: Tensor, labels: Tensor) -> None:
    """Ten passes of AdamW over the reviews."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(10):
        for part in torch.randperm(len(ids)).split(128):
            optimiser.zero_grad()
            F.cross_entropy(model(ids[part]), labels[part]).backward()
            optimiser.step()


def main(folder: Path) -> float:
    """Make the reviews, train, explain four new ones; the share of new reviews told right."""
    torch.manual_seed(0)
    draw = random.Random(0)  # noqa: S311
    reviews = [review(draw) for _ in range(2500)]
    vocabulary = {word: n for n, word in enumerate([PADDING, *sorted({w for words, _ in reviews for w in words})])}
    ids = encode([words for words, _ in reviews], vocabulary)
    labels = torch.tensor([label for _, label in reviews])
    model = Classifier(len(vocabulary))
    train(model, ids[:2000], labels[:2000])
    accuracy = float((model.eval()(ids[2000:]).argmax(1) == labels[2000:]).float().mean())
    print(f"{len(ids) - 2000} new reviews, {accuracy:.1%} told right")

    shown = [
        "the plot is truly wonderful",
        "the plot is truly not wonderful",
        "the music is really moving but the ending is quite dull",
        "every scene is often predictable but the cast is simply not boring",
    ]
    texts = [line.split() for line in shown]
    rows = []
    analyzer = pellucid.create_analyzer("lrp.epsilon", model)
    explanation = analyzer.explain(encode(texts, vocabulary), target=1)  # what speaks for a good review
    for n, words in enumerate(texts):
        share = explanation.relevance[n].sum(-1)[: len(words)]  # the features of a token together
        title = f"predicted {CLASSES[explanation.logits[n].argmax()]}, logit of good {explanation.logits[n, 1]:+.2f}"
        rows.append(TokenRow(words, share.numpy(), title))
    print(f"largest residual of the certificates: {float(explanation.residual.abs().max()):.1e}")
    folder.mkdir(parents=True, exist_ok=True)
    headline = "What speaks for a good review, word by word (LRP-ε with the AttnLRP rules)"
    (folder / "words.html").write_text(tokens_html(rows, headline), encoding="utf-8")
    rich.print(tokens_text(rows, headline))
    print(f"the same as a page: {folder / 'words.html'}")
    return accuracy


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "save/example"))
