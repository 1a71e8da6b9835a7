"""TensorBoard in a browser: projector, curves and figures, before and after a resume."""

import csv
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorboard
from PIL import Image

from browser import chromium, until
from pellucid.cli import main
from pellucid.hooks import HOOKS
from pellucid.training import loop

pytestmark = pytest.mark.slow

SMALL = (
    "--dataset digits --epochs 2 --limit-train 280 --limit-test 40 --batch-size 32 "
    "--threads 1 --methods gradient --hooks calibration,confusion_matrix,saliency,jacobian_classes,jacobian_maps,"
    "hardest,tsne,projector,dynamics".split()
)
"""Eight steps per epoch; hooks with figures, scalars and points, of each epoch and of the end."""

SOFTWARE_RENDERING = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
"""Software rendering for WebGL."""

TIMEOUT_MS = 60_000
"""Timeout for anything the page should show; generous, because the machine may be busy."""


class Killed(BaseException):
    """Simulates the death of the process."""


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that dies in the middle of its second epoch."""
    folder = tmp_path_factory.mktemp("interrupted") / "save"
    step = loop._Trainer._step

    def die(self, images, labels, progress):
        if (progress.epoch, progress.step) == (2, 3):
            raise Killed
        return step(self, images, labels, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Trainer, "_step", die)
        with pytest.raises(Killed):
            main(["run", *SMALL, "--save", str(folder)])
    return folder


@pytest.fixture(scope="module", params=["interrupted", "resumed"])
def shown(request, interrupted, tmp_path_factory):
    """TensorBoard on the run's logs, with its `address`, the `save` folder and the expected `epochs`."""
    save, epochs = interrupted, [0, 1]
    if request.param == "resumed":
        save, epochs = tmp_path_factory.mktemp("resumed") / "save", [0, 1, 2]
        shutil.copytree(interrupted, save)
        assert main(["run", "--resume", "--save", str(save)]) == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", save / "logs", "--host", "127.0.0.1"]
    log = tmp_path_factory.mktemp("tensorboard") / "log"
    with log.open("wb") as output:
        server = subprocess.Popen([*command, "--port", str(port)], stdout=output, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_until_ready(address, server, log)
        yield SimpleNamespace(address=address, save=save, epochs=epochs, log=log)
    finally:
        server.terminate()
        server.wait(30)


def wait_until_ready(address, server, log):
    """Wait until TensorBoard has loaded everything the run has written."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/data/plugins_listing", timeout=10) as answer:
                offered = json.load(answer)
        except OSError:
            offered = {}
        if all(offered.get(name, {}).get("enabled") for name in ("projector", "scalars", "images", "timeseries")):
            return
        time.sleep(0.2)
    pytest.fail(f"TensorBoard does not show the run:\n{log.read_text()}")


@pytest.fixture(scope="module")
def browser():
    with chromium(*SOFTWARE_RENDERING) as browser:
        yield browser


@pytest.fixture
def page(browser, shown):
    """A new page; afterwards, check that no script raised, no request failed and none left the machine."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(TIMEOUT_MS)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("response", lambda answer: answer.ok or wrong.append(f"{answer.status} {answer.url}"))
    page.on("request", lambda request: is_local(request.url, shown.address) or wrong.append(request.url))
    yield page
    page.close()
    assert wrong == []


def is_local(url, address):
    return url.startswith((f"{address}/", "data:", "blob:"))


def open_projector(page, shown):
    """Return the projector's frame, and its responses by kind and epoch, including later ones."""
    loaded = {}

    def note(response):
        request = re.search(r"/projector/(tensor|metadata|sprite_image)\?.*name=epoch%20(\d{3})", response.url)
        if request:
            loaded[request[1], int(request[2])] = response

    page.on("response", note)
    page.goto(f"{shown.address}/#projector")
    inner = page.frame_locator("iframe").frame_locator("iframe")
    inner.get_by_text("Dimension:").wait_for()
    return inner, loaded


def test_projector_shows_the_points_of_every_epoch(page, shown):
    inner, loaded = open_projector(page, shown)
    chooser = inner.locator("vz-projector-data-panel paper-dropdown-menu").first
    numbers = [json.loads((shown.save / f"plots/projector/epoch_{e:03d}.json").read_text()) for e in shown.epochs]
    sizes = [f"{entry['points']}x{entry['features']}" for entry in numbers]
    until(page, lambda: chooser.locator("paper-item").count() >= len(shown.epochs))
    offered = [text.split() for text in chooser.locator("paper-item").all_text_contents()]
    assert offered == [["epoch", f"{epoch:03d}", size] for epoch, size in zip(shown.epochs, sizes, strict=True)]
    for epoch in shown.epochs:
        chooser.click()
        chooser.locator("paper-item").filter(has_text=f"epoch {epoch:03d}").click()
        wanted = [(what, epoch) for what in ("tensor", "metadata", "sprite_image")]
        until(page, lambda wanted=wanted: set(wanted) <= set(loaded))
        tensor, metadata, sprite = (loaded[key].body() for key in wanted)
        folder = shown.save / f"logs/projector/epoch_{epoch:03d}"
        points = np.loadtxt(folder / "tensors.tsv", dtype=np.float32)
        assert np.array_equal(np.frombuffer(tensor, np.float32), points.ravel())
        assert metadata == (folder / "metadata.tsv").read_bytes()
        with Image.open(io.BytesIO(sprite)) as picture:
            assert picture.size == (7 * 28, 7 * 28)  # 40 thumbnails
        assert chooser.locator("input").first.input_value() == f"epoch {epoch:03d}"
        assert inner.locator(".numDataPoints").inner_text() == "40"
        until(page, lambda: black_pixels(inner) > 1500)  # points without thumbnails have no black


def black_pixels(inner):
    """Return the number of black pixels in the scatter plot."""
    with Image.open(io.BytesIO(inner.locator("#scatter canvas").first.screenshot())) as picture:
        return int((np.asarray(picture.convert("RGB")).max(2) < 30).sum())


@pytest.mark.parametrize("shown", ["resumed"], indirect=True)
def test_projector_shows_labels(page, shown):
    inner, _ = open_projector(page, shown)
    with (shown.save / "logs/projector/epoch_000/metadata.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    columns = inner.locator("#labelby paper-item")
    columns.last.wait_for(state="attached")
    assert [text.strip() for text in columns.all_text_contents()] == ["label", "prediction", "correct", "confidence"]
    wrong = Counter(row["correct"] for row in rows)["no"]
    inner.locator("#search-box input").first.fill("no")
    inner.get_by_text(f"Selected {wrong} points").wait_for()
    inner.locator("vz-projector-inspector-panel .matches-list .label").first.click()
    card = inner.locator("vz-projector-metadata-card")
    card.locator(".metadata-key").last.wait_for()
    texts = (card.locator(f".metadata-{part}").all_inner_texts() for part in ("key", "value"))
    assert dict(zip(*texts, strict=True)) in rows


@pytest.mark.parametrize("shown", ["resumed"], indirect=True)
def test_tsne_runs_in_the_projector(page, shown):
    inner, _ = open_projector(page, shown)
    inner.locator("#tsne-tab").click()
    count = inner.locator(".run-tsne-iter")
    for iterations in (10, 30):
        until(page, lambda iterations=iterations: int(count.inner_text()) >= iterations)


@pytest.mark.parametrize("tab", ["timeseries", "scalars"])
def test_curves_are_drawn(page, shown, tab):
    page.goto(f"{shown.address}/#{tab}")
    page.get_by_text("accuracy", exact=True).first.wait_for()
    if tab == "timeseries":
        page.locator("scalar-card canvas").first.wait_for()
        page.locator("scalar-card tb-data-table, scalar-card-data-table").first.wait_for()
    else:
        page.locator("tf-scalar-card svg path").first.wait_for(state="attached")
    for run, tag in (("test", "accuracy"), ("validation", "loss"), (".", "tsne/trustworthiness")):
        answer = page.request.get(f"{shown.address}/data/plugin/scalars/scalars?run={run}&tag={tag}")
        assert [step for _, step, _ in answer.json()] == shown.epochs


def test_training_validation_and_test_share_a_chart(page, shown):
    page.goto(f"{shown.address}/#timeseries")
    card = page.locator("scalar-card").filter(has_text="accuracy").first
    rows = card.locator("tb-data-table, scalar-card-data-table")
    rows.first.wait_for()
    until(page, lambda: all(run in card.inner_text() for run in ("train", "validation", "test")))


def test_time_series_show_the_figure_of_each_epoch(page, shown):
    page.goto(f"{shown.address}/#timeseries")
    page.get_by_role("combobox", name="Filter tags").fill("saliency")
    card = page.locator("image-card").first
    slider, picture = card.locator("input[type=range]"), card.locator("img")
    picture.wait_for()
    assert [int(slider.get_attribute(side)) for side in ("min", "max")] == [0, len(shown.epochs) - 1]
    slider.press("Home")
    for epoch in shown.epochs:
        card.get_by_text(re.compile(rf"^\s*Step:?\s*{epoch}\s*$")).first.wait_for()
        until(page, lambda: picture.evaluate("picture => picture.complete && picture.naturalWidth > 0"))
        content = page.request.get(picture.evaluate("picture => picture.src")).body()
        assert content == (shown.save / f"plots/saliency/epoch_{epoch:03d}.png").read_bytes()
        slider.press("ArrowRight")


def test_scalars_are_grouped(page, shown):
    runs = page.request.get(f"{shown.address}/data/plugin/scalars/tags").json()
    assert [set(runs[run]) for run in ("train", "validation", "test")] == [{"loss", "accuracy"}] * 3
    groups = {}
    for tag in runs["."]:
        group, _, name = tag.partition("/")
        groups.setdefault(group, set()).add(name)
    assert groups == {
        "training": {"learning_rate"},
        "calibration": {"ece", "brier", "aurc"},
        "jacobian_classes": {"median_spectral_norm"},
        "jacobian_maps": {"mean_spectral_norm"},
        "tsne": {"trustworthiness", "knn_accuracy", "knn_accuracy_embedding"},
    }
    page.goto(f"{shown.address}/#timeseries")
    for group in ("loss", "accuracy", *groups):
        page.locator("metrics-card-group-toolbar, .group-title").get_by_text(group, exact=True).first.wait_for()


def test_tensorboard_logs_no_warnings_about_our_files(shown):
    lines = [line for line in shown.log.read_text().splitlines() if line.strip()]
    own = ("TensorFlow installation not found", "NOTE: Using experimental fast", '"--load_fast=false"', "https://")
    own_prefixes = (*own, "    ", f"TensorBoard {tensorboard.__version__} at ")
    assert [line for line in lines if not line.startswith(own_prefixes)] == []


def test_figures_are_shown(page, shown):
    page.goto(f"{shown.address}/#images")
    picture = page.locator("tf-image-loader img").first
    picture.wait_for()
    page.wait_for_function("picture => picture.naturalWidth > 0", arg=picture.element_handle())
    tags = page.request.get(f"{shown.address}/data/plugin/images/tags").json()["."]
    assert set(tags) >= {"confusion_matrix", "jacobian_maps", "saliency", "tsne"}
    assert ("dynamics/classes" in tags) == (2 in shown.epochs)
    for tag in tags:
        hook, _, part = tag.partition("/")
        steps = page.request.get(f"{shown.address}/data/plugin/images/images?run=.&sample=0&tag={tag}").json()
        expected = shown.epochs if HOOKS[hook].when == "epoch" else shown.epochs[-1:]
        assert [entry["step"] for entry in steps] == expected
        last = page.request.get(f"{shown.address}/data/plugin/images/individualImage?{steps[-1]['query']}")
        name = f"epoch_{shown.epochs[-1]:03d}" + (f"_{part}" if part else "")
        assert last.body() == Path(shown.save / f"plots/{hook}/{name}.png").read_bytes()
