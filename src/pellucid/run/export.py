"""The work of `pellucid export`: a run as a table with one row per test image."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from threadpoolctl import threadpool_limits
from torch import Tensor

from pellucid.config import ExportConfig
from pellucid.core.contracts import ImageSet
from pellucid.core.errors import ConfigError, ModelError, ShapeError
from pellucid.core.terminal import print_line
from pellucid.data._open import open_data
from pellucid.data._read_all import chosen_for_testing
from pellucid.engine.tap import find_embedding
from pellucid.hooks._thumbnails import thumbnails
from pellucid.run.reopening import Access, Reopened, reopen_inspection
from pellucid.storage.runs import load_data_of, load_run, request_of
from pellucid.storage.store import Store
from pellucid.storage.table import require_parquet, write_table
from pellucid.training.evaluate import evaluate

__all__ = ["export_run"]

PICTURE_SIDE = 128
"""Side of the exported images in pixels, at most."""
NEIGHBOURS = 10
"""Number of nearest neighbors per image."""
IMAGES_AT_ONCE = 200


def export_run(config: ExportConfig) -> int:
    """Write the table of a run and return the exit code.

    Raises `SaveError` if the folder contains no run, or if its data set has changed, and `ConfigError` without pyarrow
    or for a run whose data is only in the user's program.
    """
    require_parquet("pellucid export")
    torch.set_num_threads(config.threads)
    store = Store(config.run)
    store.check_run("run.json")
    record = store.run()
    _check_is_free(config.to, record["dataset"]["name"])
    is_training = record.get("kind", "run") == "run"
    access = Access(config.run, config.trust, config.data_dir, config.mirror)
    exported = _of_training(config, store) if is_training else reopen_inspection(access, record)
    logits = evaluate(exported.model, exported.images, torch.device("cpu"))
    features, source = _features(exported, logits)
    points, projection = _projection(store, exported, features, source)
    columns = {**_predictions(exported, logits), "embedding": features.numpy(), **_plane(points, features.numpy())}
    about = {
        "run": str(config.run.resolve()),
        "data": record["dataset"]["name"],
        "epoch": exported.epoch,
        "classes": exported.classes,
        "embedding": source,
        "projection": projection,
    }
    write_table(config.to, columns, {"image": _pictures(exported.images)}, about)
    print_line(f"{config.to}: {len(exported.images):,} test images. Projection: {projection}. Embedding: {source}.")
    print_line(f"embedding-atlas {config.to} --image image --x projection_x --y projection_y --neighbors neighbors")
    return 0


def _check_is_free(path: Path, dataset: str) -> None:
    """Raise `ConfigError` if the file to write is the data set of the run."""
    name = dataset.partition("?")[0]
    if any(path.resolve() == Path(one).expanduser().resolve() for one in (name, name.partition(":")[2]) if one):
        raise ConfigError(f"--to {path} would overwrite the data set of the run; choose another name.")


def _of_training(config: ExportConfig, store: Store) -> Reopened:
    """Open a training run, with its best weights."""
    trained = load_run(config.run, trust=config.trust)
    data = load_data_of(config.run, trained, config.data_dir, config.mirror)
    best = max((line["epoch"] for line in store.metrics() if line.get("best")), default=None)
    count, settings = len(data.test), trained.config
    files: list[str | None] = [None] * count
    if data.name.startswith("folder:"):  # already loaded, so it is there
        request = request_of(config.run, settings, config.data_dir, config.mirror)
        opened = open_data(data.name, request)
        chosen = chosen_for_testing(opened, request, settings.get("limit_test"))
        if opened.test.files is not None and chosen is not None:
            files = [str(opened.test.files[index]) for index in chosen]
    layer = settings.get("embedding_layer")
    return Reopened(trained.model, data.test, data.classes, best, layer, list(range(count)), files)


def _predictions(exported: Reopened, logits: Tensor) -> dict[str, Any]:
    """Return the columns that follow from the logits; losses are in nats."""
    labels, classes = exported.images.labels, exported.classes
    probabilities = logits.double().softmax(1)
    predictions = logits.argmax(1)
    rows = torch.arange(len(labels))
    return {
        "index": np.array(exported.indices, dtype=np.int64),
        "path": exported.files,
        "label": [classes[label] for label in labels.tolist()],
        "label_index": labels.numpy(),
        "prediction": [classes[label] for label in predictions.tolist()],
        "prediction_index": predictions.numpy(),
        "is_correct": (predictions == labels).numpy(),
        "probability": probabilities[rows, predictions].float().numpy(),
        "probability_of_label": probabilities[rows, labels].float().numpy(),
        "loss": F.cross_entropy(logits.double(), labels, reduction="none").float().numpy(),
        "probabilities": probabilities.float().numpy(),
    }


def _features(exported: Reopened, logits: Tensor) -> tuple[Tensor, str]:
    """Return the embedding (image, feature) and the layer it enters; the logits if the model has none."""
    images = exported.images
    try:
        tap = find_embedding(exported.model, images.floats([0]), exported.embedding_layer)
        parts = [tap.read(images.floats(part)) for part in torch.arange(len(images)).split(IMAGES_AT_ONCE)]
    except (ModelError, ShapeError) as error:
        if exported.embedding_layer is not None:
            raise
        return logits, f"the logits, because there is no embedding ({error})"
    return torch.cat(parts), f"input of {tap.layer}"


def _projection(store: Store, exported: Reopened, features: Tensor, source: str) -> tuple[np.ndarray, str]:
    """Return a point (image, 2) for each image, and how it was computed: by the run's t-SNE, if it has all images."""
    count, reason = len(exported.images), ""
    for entry in store.manifest()["artifacts"]:
        if (entry["hook"], entry["kind"], entry["epoch"]) == ("tsne", "arrays", exported.epoch):
            arrays = store.read_arrays(entry["path"])
            points, indices = arrays.get("points"), arrays.get("indices")
            if points is None or indices is None:
                continue
            if sorted(indices.tolist()) == list(range(count)):
                ordered = np.empty((count, 2), np.float32)
                ordered[indices] = points
                return ordered, f"t-SNE of epoch {exported.epoch}"
            reason = f" (the run's t-SNE has only {len(points):,} of the images)"
    return _principal(
        features.numpy()
    ), f"principal components of the {'logits' if 'logits' in source else 'embedding'}{reason}"


def _principal(features: np.ndarray) -> np.ndarray:
    """Return the first two principal components, (image, 2)."""
    from sklearn.decomposition import PCA

    components = min(2, *features.shape)
    with threadpool_limits(1):
        points = PCA(components, random_state=0).fit_transform(features.astype(np.float64))
    return np.pad(points, [(0, 0), (0, 2 - components)]).astype(np.float32)


def _plane(points: np.ndarray, features: np.ndarray) -> dict[str, Any]:
    """Return the columns of the projection, and each image's nearest neighbors in the embedding."""
    from sklearn.neighbors import NearestNeighbors

    columns: dict[str, Any] = {"projection_x": points[:, 0].copy(), "projection_y": points[:, 1].copy()}
    nearest = min(NEIGHBOURS, len(features) - 1)
    if nearest > 0:
        with threadpool_limits(1):
            distances, ids = NearestNeighbors(n_neighbors=nearest).fit(features).kneighbors()
        pairs = zip(ids.tolist(), distances.tolist(), strict=True)
        columns["neighbors"] = [{"ids": each, "distances": far} for each, far in pairs]
    return columns


def _pictures(images: ImageSet) -> list[bytes]:
    """Return the images as PNG files; gray or color, padded to squares, with sides of 128 pixels at most."""
    pictures = []
    for part in torch.arange(len(images)).split(IMAGES_AT_ONCE):
        for pixels in thumbnails(images[part], PICTURE_SIDE):
            file = io.BytesIO()
            Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
            pictures.append(file.getvalue())
    return pictures
