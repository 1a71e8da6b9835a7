"""The report in a real browser, opened from disk without network access."""

import json
from urllib.parse import urlsplit

import numpy as np
import pytest

from browser import chromium, until
from pellucid.cli import main
from pellucid.report import write_report
from pellucid.report.sections.confusion_matrix import SHOWN_CLASSES
from pellucid.storage.lock import locked
from pellucid.storage.store import Store
from pretended_run import (
    CLASSES,
    COUNTS,
    cell_images,
    hardest_images,
    keep,
    metrics_line,
    png,
    run_record,
    write_run,
)

pytestmark = pytest.mark.slow

SMALL = (
    "--dataset digits --epochs 2 --limit-train 280 --limit-test 40 --batch-size 32 --threads 1 "
    "--methods gradient,lrp.epsilon --hooks confusion_matrix,hardest,saliency,leaderboard"
).split()
LAST = 2


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """The save folder of a small run, with its report."""
    folder = tmp_path_factory.mktemp("run") / "save"
    assert main(["run", *SMALL, "--save", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium("--disable-gpu") as browser:
        yield browser


@pytest.fixture
def visit(browser):
    """Open a file in a browser without network access; afterwards, check that the console is empty."""
    wrong, contexts = [], []

    def is_local(url):
        return urlsplit(url).scheme in ("file", "data", "blob")

    def open_page(path, width=1280, place="", is_lazy=False, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_offline(True)
        context.route(lambda url: not is_local(url), lambda route: route.abort())
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("request", lambda request: is_local(request.url) or wrong.append(request.url))
        page.goto(path.as_uri() + place)
        if not is_lazy:
            page.evaluate("pellucid.showAll()")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def numbers(save, hook, epoch, name=""):
    return json.loads((save / f"plots/{hook}/epoch_{epoch:03d}{name}.json").read_text())


def metrics(save):
    return [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]


def choose(page, epoch):
    """Select an epoch by keyboard."""
    page.locator("#epoch").focus()
    page.keyboard.press("Home")
    for _ in range(epoch):
        page.keyboard.press("ArrowRight")
    assert page.locator("#epoch-shown").inner_text() == f"epoch {epoch}"


def percent(part, whole):
    return f"{100 * part / whole:.1f}%" if whole else "–"


# --- the page --------------------------------------------------------------------------------------------------


def test_page_shows_every_section(save, visit):
    page = visit(save / "report.html")
    run = json.loads((save / "run.json").read_text())
    assert page.locator("h1").inner_text() == f"Training report: small_cnn on {run['dataset']['title']}"
    assert page.locator("#status").inner_text() == "finished"
    page.get_by_text("Run details").click()
    assert f"{run['test_accuracy']:.2%}" in page.locator(".facts").inner_text()
    titles = page.locator("section h2").all_inner_texts()
    assert titles == [
        "Learning curves",
        "Confusion matrix: what does it get wrong?",
        "Hardest test images",
        "Saliency maps: which pixels does it look at?",
        "Leaderboard: which explanations can be trusted?",
    ]
    assert page.locator("nav a").all_inner_texts() == [title.split(":")[0] for title in titles]
    assert page.locator(".notice:visible").count() == 0


def test_slider_updates_every_section(save, visit):
    page = visit(save / "report.html")
    captions = {
        entry["epoch"]: entry["caption"]
        for entry in json.loads((save / "manifest.json").read_text())["artifacts"]
        if (entry["hook"], entry["kind"]) == ("saliency", "figure")
    }
    for epoch in (0, 1, LAST):
        choose(page, epoch)
        caption = page.locator("#saliency figcaption")
        until(page, lambda: caption.inner_text().startswith(captions[epoch]))  # noqa: B023
        assert page.locator("#saliency .tile").count() == 5 * len(numbers(save, "saliency", epoch)["indices"])
        counts = np.array(numbers(save, "confusion_matrix", epoch)["counts"])
        rows = page.locator("#confusion_matrix tbody tr").all()
        shown = [[int(cell) for cell in row.locator("td[tabindex]").all_inner_texts()] for row in rows]
        assert np.array_equal(shown, counts)
        assert (
            f"accuracy {counts.trace() / counts.sum():.2%}" in page.locator("#confusion_matrix .summary").inner_text()
        )
        losses = numbers(save, "hardest", epoch)["losses"]
        assert [f"loss {loss:.2f}" in text for loss, text in zip(losses, cards(page), strict=True)] == [True] * 12
        assert page.locator(".chart .at").all_inner_texts() == [f" at epoch {epoch}"] * 2


def cards(page):
    return page.locator("#hardest li").all_inner_texts()


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_play_steps_through_the_epochs_and_stops(motion, save, visit):
    page = visit(save / "report.html", reduced_motion=motion)
    page.clock.install()
    page.reload()
    play, shown = page.locator("#play"), page.locator("#epoch-shown")
    play.click()
    assert (play.inner_text(), shown.inner_text()) == ("Pause", "epoch 0")
    page.clock.run_for(1200)
    assert shown.inner_text() == "epoch 1"
    play.click()
    assert play.inner_text() == "Play"
    page.clock.run_for(5000)
    assert shown.inner_text() == "epoch 1"
    play.click()
    page.clock.run_for(1200)
    assert (play.inner_text(), shown.inner_text()) == ("Play", f"epoch {LAST}")


def test_epoch_and_section_survive_a_reload(save, visit):
    page = visit(save / "report.html")
    choose(page, 1)
    page.get_by_role("link", name="Hardest test images").click()
    until(page, lambda: page.evaluate("() => location.hash") == "#hardest&epoch=1")
    page.reload()
    assert page.locator("#epoch-shown").inner_text() == "epoch 1"
    until(page, lambda: page.evaluate("() => document.querySelector('#hardest').getBoundingClientRect().top") < 450)
    choose(page, 2)
    until(page, lambda: page.evaluate("() => location.hash") == "#hardest&epoch=2")


# --- curves ----------------------------------------------------------------------------------------------------


def test_curves_show_their_values(save, visit):
    page = visit(save / "report.html")
    lines = metrics(save)
    plot = page.locator(".plot").first
    legend = page.locator(".legend").first
    plot.focus()
    page.keyboard.press("Home")
    assert legend.inner_text().split() == [
        "train",
        "–",
        "validation",
        three_digits(lines[0]["validation_loss"]),
        "test",
        three_digits(lines[0]["test_loss"]),
    ]
    page.keyboard.press("ArrowRight")
    assert plot.get_attribute("aria-valuetext") == (
        f"epoch 1: train {three_digits(lines[1]['train_loss'])}, "
        f"validation {three_digits(lines[1]['validation_loss'])}, test {three_digits(lines[1]['test_loss'])}"
    )
    assert page.locator("#epoch-shown").inner_text() == f"epoch {LAST}"
    page.keyboard.press("Enter")
    assert page.locator("#epoch-shown").inner_text() == "epoch 1"
    box = page.locator(".plot").nth(1).bounding_box()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 80)
    assert f"{100 * lines[2]['test_accuracy']:.2f}%" in page.locator(".legend").nth(1).inner_text()
    page.mouse.move(0, 0)
    assert page.locator(".chart .at").first.inner_text() == " at epoch 1"
    page.mouse.click(box["x"] + box["width"] - 20, box["y"] + 80)
    assert page.locator("#epoch-shown").inner_text() == "epoch 2"
    assert f"best: epoch {best(lines)}" in page.locator(".plot").first.text_content()


def best(lines):
    return next(line["epoch"] for line in reversed(lines) if line["best"])


def three_digits(value):
    """Format with three significant digits, as JavaScript's `toPrecision` does."""
    digits = 2 - int(np.floor(np.log10(value)))
    return f"{value:.{digits}f}"


def test_curves_are_available_as_a_table(save, visit):
    page = visit(save / "report.html")
    page.get_by_text("Show as table").click()
    lines = metrics(save)
    rows = page.locator(".curves-table tbody tr").all()
    for line, row in zip(lines, rows, strict=True):
        cells = row.locator("td").all_inner_texts()
        assert cells[2] == three_digits(line["test_loss"])
        assert cells[5] == f"{100 * line['test_accuracy']:.2f}%"
        assert row.locator("th").inner_text() == f"{line['epoch']}{' (best)' if line['epoch'] == best(lines) else ''}"


# --- confusion matrix ------------------------------------------------------------------------------------------


def cell(page, row, column):
    return page.locator("#confusion_matrix tbody tr").nth(row).locator("td").nth(column)


def sentence(counts, row, column, classes):
    outcome = "correct" if row == column else f"predicted as {classes[column]}"
    count = counts[row][column]
    truths, predictions = np.sum(counts, 1)[row], np.sum(counts, 0)[column]
    return (
        f"{classes[row]} {outcome}: {count} image{'' if count == 1 else 's'}, {percent(count, truths)} of the row · "
        f"recall of {classes[row]} {percent(counts[row][row], truths)} · "
        f"precision of {classes[column]} {percent(counts[column][column], predictions)}"
    )


def test_hover_shows_count_recall_and_precision(save, visit):
    page = visit(save / "report.html")
    counts = numbers(save, "confusion_matrix", LAST)["counts"]
    classes = [str(number) for number in range(10)]
    for row, column in ((0, 0), (3, 7), (9, 1)):
        cell(page, row, column).hover()
        assert page.locator(".matrix .summary").inner_text() == sentence(counts, row, column, classes)
    recall = numbers(save, "confusion_matrix", LAST)["recall"]
    shown = [page.locator("#confusion_matrix tbody tr").nth(row).locator(".margin").inner_text() for row in range(10)]
    assert shown == [f"{100 * share:.1f}" for share in recall]


def test_click_shows_the_images_of_a_cell(save, visit):
    page = visit(save / "report.html")
    counts = np.array(numbers(save, "confusion_matrix", LAST)["counts"])
    row, column = (int(place) for place in np.argwhere(counts == counts.max())[0])
    cell(page, row, column).click()
    for epoch in (LAST, 0, 1):
        choose(page, epoch)
        counts = np.array(numbers(save, "confusion_matrix", epoch)["counts"])
        kept = numbers(save, "confusion_matrix", epoch, "_images")
        inside = [
            n for n, pair in enumerate(zip(kept["labels"], kept["predictions"], strict=True)) if pair == (row, column)
        ]
        count = int(counts[row, column])
        heading = page.locator(".cell h3").inner_text()
        assert heading == f"{row}, correct: {count} test image{'' if count == 1 else 's'}"
        texts = page.locator(".cell li").all_inner_texts()
        assert texts == [f"{row} → {column}, {percent(kept['confidences'][number], 1)}" for number in inside]
        assert len(inside) == min(count, 8)
        with np.load(save / f"plots/confusion_matrix/epoch_{epoch:03d}_images.npz") as arrays:
            thumbnails = arrays["thumbnails"]
        for number, canvas in zip(inside, page.locator(".cell canvas").all(), strict=True):
            read = "tile => [...tile.getContext('2d').getImageData(0, 0, tile.width, tile.height).data]"
            pixels = np.array(canvas.evaluate(read)).reshape(*thumbnails.shape[1:3], 4)
            assert np.array_equal(pixels[..., 0], thumbnails[number, ..., 0])
            assert canvas.evaluate("tile => getComputedStyle(tile).imageRendering") == "pixelated"
            assert canvas.get_attribute("aria-label").startswith(f"Test image {kept['indices'][number]}: ")


def test_matrix_keyboard_navigation(tmp_path, visit):
    write_run(tmp_path)
    page = visit(write_report(tmp_path))
    counts = COUNTS[2]
    page.locator("#confusion_matrix td[tabindex='0']").focus()
    for key, (row, column) in (
        ("PageUp", (0, 1)),  # from the largest error, (2, 1), which is preselected
        ("Home", (0, 0)),
        ("ArrowRight", (0, 1)),
        ("ArrowDown", (1, 1)),
        ("End", (1, 2)),
        ("ArrowRight", (1, 2)),
        ("PageDown", (2, 2)),
        ("ArrowLeft", (2, 1)),
    ):
        page.keyboard.press(key)
        assert page.locator(".matrix .summary").inner_text() == sentence(counts, row, column, CLASSES)
        assert page.locator("#confusion_matrix td[tabindex='0']").count() == 1
    page.keyboard.press("Enter")
    assert page.locator(".cell h3").inner_text() == f"{CLASSES[2]}, predicted as dog: 2 test images"
    assert page.locator(".cell li").all_inner_texts() == [f"{CLASSES[2]} → dog, 55.0%", f"{CLASSES[2]} → dog, 56.0%"]
    assert page.locator("#confusion_matrix td[aria-selected='true']").count() == 1


# --- hardest, leaderboard, figures -----------------------------------------------------------------------------


def test_hardest_images_show_their_numbers(save, visit):
    page = visit(save / "report.html")
    record = numbers(save, "hardest", LAST)
    shown = cards(page)
    assert len(shown) == len(record["indices"]) == 12
    for number, text in enumerate(shown):
        label, prediction = record["labels"][number], record["predictions"][number]
        assert (f"{label} predicted as {prediction}" if label != prediction else f"{label}, correct") in text
        assert f"confidence {100 * record['confidences'][number]:.1f}%" in text
        assert f"test image {record['indices'][number]} " in text
    assert page.locator("#hardest canvas").count() == 24
    drawn = "tile => tile.getContext('2d').getImageData(0, 0, tile.width, tile.height).data.some(value => value > 0)"
    assert all(canvas.evaluate(drawn) for canvas in page.locator("#hardest canvas").all())


def test_leaderboard_can_be_sorted(save, visit):
    page = visit(save / "report.html")
    record = numbers(save, "leaderboard", LAST)
    own, controls = (page.locator(".board tbody").nth(index) for index in (0, 1))
    names = ["gradient", "lrp.epsilon"]
    assert [text.split()[0] for text in own.locator("th").all_inner_texts()] == names
    metric = "sparseness"
    values = {row["method"]: row["value"] for row in record["rows"] if row["metric"] == metric}
    heading = page.locator(".board thead th", has_text=metric)
    heading.locator("button.sort").click()
    assert heading.get_attribute("aria-sort") == "descending"
    for body in (own, controls):
        listed = [text.split()[0] for text in body.locator("th").all_inner_texts()]
        # controls that win by construction come last
        assert listed == sorted(listed, key=lambda name: (name in record["metrics"][metric]["won_by"], -values[name]))
    assert "Sorted by sparseness, best first." in page.locator("#leaderboard .summary").inner_text()
    column = [text.splitlines()[0] for text in own.locator("td:nth-child(5)").all_inner_texts()]
    assert column == [f"{values[text.split()[0]]:.3f}" for text in own.locator("th").all_inner_texts()]
    heading.locator("button.sort").click()
    assert [text.split()[0] for text in own.locator("th").all_inner_texts()] == names
    winners = own.locator("td.best")
    assert winners.count() == len(record["metrics"])
    assert all("best" in text.splitlines()[2] for text in winners.all_inner_texts())
    assert page.locator(".removal svg .line").count() == 3 * len(record["methods"])  # two charts and the legend


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figure_opens_at_full_size(scheme, tmp_path, visit):
    keep(write_run(tmp_path), "my_hook", 2, png(255, size=(1300, 700)))
    page = visit(write_report(tmp_path), width=390, place="#hook-my_hook", color_scheme=scheme)
    part = page.locator('[id="hook-my_hook"]')
    button = part.get_by_role("button", name="Full size: my hook")
    # white figures are dimmed in dark mode
    filters = part.locator("img").first.evaluate("image => getComputedStyle(image).filter")
    assert filters == ("none" if scheme == "light" else "brightness(0.75)")
    button.focus()
    page.keyboard.press("Enter")
    picture = page.locator("dialog img")
    assert picture.is_visible()
    assert picture.bounding_box()["width"] == picture.evaluate("image => image.naturalWidth") > 600
    assert picture.get_attribute("alt") == part.locator("figcaption").first.text_content()
    page.keyboard.press("Escape")
    assert not picture.is_visible()
    assert button.evaluate("button => button === document.activeElement")


def test_notice_if_another_epoch_is_shown(tmp_path, visit):
    write_run(tmp_path)
    page = visit(write_report(tmp_path))
    which = page.locator("#hook-my_hook .which")
    assert which.inner_text() == "No data for epoch 2; showing epoch 1."
    choose(page, 1)
    assert which.inner_text() == ""
    assert page.locator("#hook-my_hook img").count() == 2
    assert (
        page.locator("#prototypes .which").inner_text()
        == "Computed at the end of training with the best checkpoint (epoch 1)."
    )


# --- damaged and unfinished runs -------------------------------------------------------------------------------


def test_hostile_names_are_escaped(tmp_path, visit):
    script, image = "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'
    folder = tmp_path / image
    classes = (script, image, "bird")
    store = write_run(folder, classes, config={"save": str(folder)}, command=f"runner.py --save '{folder}'")
    keep(store, image.replace("/", ""), 2, png(3))
    store.add_failure("tsne", 2, script, f"Traceback {image}")
    page = visit(write_report(folder))
    cell(page, 1, 0).click()
    assert page.locator(".cell h3").inner_text() == f"{image}, predicted as {script}: 1 test image"
    assert page.locator("#hardest li").first.inner_text().splitlines()[0] == f"{script} predicted as {image}"
    assert page.locator("#failures summary").inner_text() == f"tsne, epoch 2: {script}"
    page.get_by_text("Run details").click()
    assert str(folder) in page.locator(".how").inner_text()
    assert page.locator("img[src='x']").count() == 0
    sections = page.evaluate("Object.keys(pellucid.sections)")
    assert page.locator("script").count() == 2 + len(sections)


def test_unfinished_run_shows_damages_and_failures(tmp_path, visit):
    store = write_run(tmp_path, status="interrupted")
    (tmp_path / "plots/saliency/epoch_001.png").unlink()
    store.add_failure("tsne", 1, "ValueError: no points", "Traceback: here it went wrong")
    page = visit(write_report(tmp_path))
    assert "This run was interrupted after epoch 2 of 2" in page.locator(".notice").first.inner_text()
    assert "plots/saliency/epoch_001.png cannot be shown" in page.locator("#damages").inner_text()
    page.locator("#failures summary").click()
    assert page.locator("#failures pre").inner_text() == "Traceback: here it went wrong"
    choose(page, 1)
    assert page.locator("#saliency .which").inner_text() == "No data for epoch 1; showing epoch 0."


def test_invalid_data_does_not_break_the_page(tmp_path, visit):
    write_run(tmp_path)
    path = write_report(tmp_path)
    path.write_text(path.read_text().replace('"counts":', '"cuonts":'))
    page = visit(path)
    assert "This section cannot be shown" in page.locator("#confusion_matrix").inner_text()
    assert page.locator("#hardest li").count() == 2


def test_unfinished_epoch_shows_the_curves_of_the_previous_one(tmp_path, visit):
    keep(write_run(tmp_path, status="interrupted"), "saliency", 3, png(3))
    page = visit(write_report(tmp_path))
    assert page.locator("#epoch-shown").inner_text() == "epoch 3"
    assert page.locator(".chart .at").first.inner_text() == " at epoch 2"


def test_click_selects_the_nearest_epoch_with_figures(tmp_path, visit):
    store = write_run(tmp_path)
    for epoch in range(3, 9):
        store.add_metrics(metrics_line(2) | {"epoch": epoch})
    keep(store, "saliency", 8, png(8))
    page = visit(write_report(tmp_path))
    plot = page.locator(".plot").first
    plot.focus()
    page.keyboard.press("End")
    for epoch, shown in ((7, 8), (6, 8), (5, 2), (4, 2)):
        page.keyboard.press("ArrowLeft")
        assert plot.get_attribute("aria-valuetext").startswith(f"epoch {epoch}: ")
        page.keyboard.press("Enter")
        assert page.locator("#epoch-shown").inner_text() == f"epoch {shown}"


def test_diverged_network_shows_missing_numbers(tmp_path, visit):
    store = write_run(tmp_path)
    lost = [float("nan")] * 2
    numbers = {"confidences": lost, "true_probabilities": lost, "losses": lost, "scale_limits": [1.0, 1.0]}
    made = hardest_images(2)
    keep(store, "hardest", 2, arrays=made["arrays"], numbers=made["numbers"] | numbers | {"refused": {"lrp": "no"}})
    made = cell_images(COUNTS[2])
    made["numbers"]["confidences"] = [float("nan")] * len(made["numbers"]["labels"])
    keep(store, "confusion_matrix", 2, name="images", **made)
    page = visit(write_report(tmp_path))
    assert "loss not finite · confidence –, true class –" in page.locator("#hardest li").first.inner_text()
    assert (
        page.locator("#hardest .method").inner_text() == "Explanations by gradient. lrp does not apply to this model."
    )
    cell(page, 1, 1).click()
    assert page.locator(".cell li").first.inner_text() == "dog → dog, –"


def test_classes_with_the_same_name(tmp_path, visit):
    page = visit(write_report(write_run(tmp_path, ("cat", "cat", "cat")).folder))
    assert page.locator("#hardest li").first.inner_text().splitlines()[0] == "cat predicted as cat"


def test_perfect_accuracy_has_a_valid_scale(tmp_path, visit):
    store = Store(tmp_path)
    store.begin(run_record())
    right = {f"{part}_accuracy": 1.0 for part in ("train", "validation", "test")}
    for epoch in (0, 1):
        store.add_metrics(metrics_line(epoch) | right)
    page = visit(write_report(tmp_path), place="#curves")
    assert "NaN" not in page.locator(".plot").nth(1).inner_html()
    page.locator("nav a").click()
    assert page.evaluate("location.hash") == "#curves"  # there is no epoch to keep


# --- accessibility ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 100])
@pytest.mark.parametrize("width", [1280, 390])
def test_any_number_of_classes_fits(count, width, tmp_path, visit):
    names = tuple(f"a class with the long name number {number}" for number in range(count))
    store = Store(tmp_path)
    store.begin(run_record(names))
    keep(store, "confusion_matrix", 0, numbers={"counts": np.diag(np.full(count, 3)).tolist()})
    page = visit(write_report(tmp_path), width=width)
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    last = min(count, SHOWN_CLASSES) - 1  # all of them are classified equally well, so the first ones are shown
    cell(page, last, last).click()
    assert page.locator(".cell h3").inner_text() == f"{names[last]}, correct: 3 test images"
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_is_accessible(width, scheme, save, visit):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="it comes with the extra `test`").Axe()
    page = visit(save / "report.html", width=width, color_scheme=scheme)
    cell(page, 3, 3).click()
    for details in page.locator("summary").all():
        details.click()
    assert serious(axe.run(page)) == []
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    page.locator("#saliency").get_by_role("button", name="Enlarge").click()
    assert serious(axe.run(page)) == []


def serious(results):
    """Return the serious and critical violations that axe reports, with their elements."""
    return [
        (fault["id"], [node["target"] for node in fault["nodes"]])
        for fault in results.response["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


def test_page_of_a_running_run_counts_the_time(visit, tmp_path):
    with locked(tmp_path / "save"):
        store = write_run(tmp_path / "save", status="running")
        path = write_report(store.folder)
    page = visit(path)
    assert page.locator("#age").inner_text() == " (less than a minute ago)"
    ages = page.evaluate("[59, 60, 3599, 3600, 86399, 86400, 200000, -5].map(pellucid.age)")
    assert ages == [
        "less than a minute ago",
        "1 minute ago",
        "59 minutes ago",
        "1 hour ago",
        "23 hours ago",
        "1 day ago",
        "2 days ago",
        "less than a minute ago",
    ]
    page = visit(write_report(store.folder))  # nobody holds the lock any more
    assert page.locator("#written").count() == 0
    assert page.locator("#status").inner_text() == "interrupted"
