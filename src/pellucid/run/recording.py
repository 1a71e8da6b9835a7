"""The recorder of a run: which training images it samples, and in which order the run trains on them."""

import torch

from pellucid.core.seeding import generator
from pellucid.data._loaders import batch_order
from pellucid.data._splitting import stratified
from pellucid.run.session import Session
from pellucid.training.recording import MOMENTS, Recorder

__all__ = ["SAMPLED", "make_recorder", "sample_size"]

SAMPLED = 5000
"""Maximum number of training images in the sample."""


def make_recorder(session: Session) -> Recorder:
    """Return the recorder of a run, with a seeded, stratified sample of its training images."""
    train, seed, size = session.data.train, session.recipe.seed, session.config.training.batch_size

    def order(epoch: int) -> torch.Tensor:
        return batch_order(len(train), size, seed=seed, epoch=epoch, world_size=session.world.size)

    draws = generator(seed, "recorded sample")
    sample = stratified(train.labels, sample_size(len(train)), draws, all_classes=True).nonzero()[:, 0]
    return Recorder(train, sample, order, session.recipe.steps_per_epoch, session.world)


def sample_size(images: int) -> int:
    """Return the number of training images to predict several times per epoch, of all `images`.

    In data sets of fewer than 40,000 images, it is an eighth, so that these predictions cost at most one forward pass
    per training image and epoch.

    >>> sample_size(55_000), sample_size(1319)
    (5000, 164)
    """
    return min(SAMPLED, max(images // MOMENTS, 1))
