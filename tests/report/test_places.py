"""Places in the page's address, and sections that are created when they come near; in a real browser, from disk."""

import json

import pytest

from browser import chromium, until
from offline_page import opened
from pellucid.report import write_report
from pretended_run import metrics_line, run_record, write_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with chromium("--disable-gpu") as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places") / "save"
    write_run(folder)
    return write_report(folder)


def place(tab):
    return tab.evaluate("() => ({...pellucid.place})")


def created(tab):
    return tab.evaluate("() => [...document.querySelectorAll('section[data-created]')].map((one) => one.id)")


def test_places_are_read_from_addresses_and_written(browser, page):
    names = ("section", "epoch", "image", "method", "class", "layer", "channel")
    method = "integrated_gradients(steps=12)"
    written = {
        "#explain&epoch=2&image=12&method=lrp.epsilon&class=4": ("explain", 2, 12, "lrp.epsilon", 4, None, None),
        "#hardest": ("hardest", None, None, None, None, None, None),
        "#a%20b&method=integrated_gradients(steps%3D12)": ("a b", None, None, method, None, None, None),
        "#channels&layer=relu%401&channel=7": ("channels", None, None, None, None, "relu@1", 7),
    }
    invalid = {
        "#epoch=3": (None, 3, None, None, None, None, None),
        "#explain&image=-1&class=x&epoch=": ("explain", None, None, None, None, None, None),
        "#100%&image=1": (None, None, 1, None, None, None, None),
        "": (None,) * 7,
    }
    with opened(browser, page, is_lazy=True) as tab:
        for fragment, expected in {**written, **invalid}.items():
            read = tab.evaluate("(fragment) => pellucid.parsePlace(fragment)", fragment)
            assert read == dict(zip(names, expected, strict=True))
            if fragment in written:
                assert tab.evaluate("(one) => pellucid.formatPlace(one)", read) == fragment


def test_sections_are_created_when_they_come_near(browser, page):
    with opened(browser, page, is_lazy=True) as tab:
        until(tab, lambda: "curves" in created(tab))
        order = tab.evaluate("() => Object.keys(pellucid.sections)")
        assert order[-1] not in created(tab)
        tab.locator(f"[id='{order[-1]}']").scroll_into_view_if_needed()
        until(tab, lambda: order[-1] in created(tab))


def test_an_epoch_selected_before_a_section_is_created_is_shown_in_it(browser, page):
    with opened(browser, page, is_lazy=True) as tab:
        assert "leaderboard" not in created(tab)
        tab.locator("#epoch").fill("1")
        tab.locator("#hook-my_hook").scroll_into_view_if_needed()
        until(tab, lambda: "hook-my_hook" in created(tab))
        assert tab.evaluate("() => document.documentElement.dataset.epoch") == "1"
        assert tab.locator("#hook-my_hook .which").inner_text() == ""


def test_a_link_restores_section_and_epoch(browser, page):
    with opened(browser, page, is_lazy=True) as tab:
        tab.evaluate("() => { location.hash = '#leaderboard&epoch=1'; }")
        until(tab, lambda: "leaderboard" in created(tab))
        assert tab.locator("#epoch-shown").inner_text() == "epoch 1"
        tab.reload()
        until(tab, lambda: tab.evaluate("() => location.hash") == "#leaderboard&epoch=1")
        assert tab.locator("#epoch-shown").inner_text() == "epoch 1"
        top = "() => document.getElementById('leaderboard').getBoundingClientRect().top"
        until(tab, lambda: -5 < tab.evaluate(top) < 400)


def test_the_place_stays_in_sight_while_sections_above_grow(browser, page):
    with opened(browser, page, is_lazy=True) as tab:
        tab.evaluate("() => pellucid.go({ section: 'leaderboard' })")
        top = "() => document.getElementById('leaderboard').getBoundingClientRect().top"
        before = tab.evaluate(top)
        grow = "(height) => { document.querySelector('#hardest .body').style.minHeight = `${height}px`; }"
        tab.evaluate(grow, 3000)
        until(tab, lambda: abs(tab.evaluate(top) - before) < 2)
        # but not against the reader
        tab.mouse.wheel(0, -400)
        until(tab, lambda: tab.evaluate(top) > before + 300)
        tab.evaluate("() => { document.documentElement.style.overflowAnchor = 'none'; }")
        tab.evaluate(grow, 5000)
        tab.wait_for_timeout(200)
        assert tab.evaluate(top) > before + 300


def test_back_returns_to_the_previous_place(browser, page):
    with opened(browser, page, is_lazy=True) as tab:
        tab.get_by_role("link", name="Hardest test images", exact=True).click()
        until(tab, lambda: place(tab)["section"] == "hardest")
        tab.evaluate("() => pellucid.go({ section: 'leaderboard', image: 7, class: 1 })")
        assert tab.evaluate("() => location.hash") == "#leaderboard&epoch=2&image=7&class=1"
        tab.go_back()
        until(tab, lambda: place(tab)["section"] == "hardest")
        assert place(tab)["image"] is None


def test_contents_stay_in_sight_and_mark_the_current_section(browser, page):
    with opened(browser, page, is_lazy=True) as tab:
        tab.get_by_role("link", name="Leaderboard", exact=True).click()
        until(tab, lambda: tab.locator("nav [aria-current]").all_inner_texts() == ["Leaderboard"])
        assert abs(tab.locator("nav").bounding_box()["y"]) < 1


@pytest.mark.parametrize("viewport", [(1280, 800), (390, 844)])
def test_first_screen_has_verdict_mistakes_and_curves(viewport, browser, page):
    width, height = viewport
    with opened(browser, page, is_lazy=True, viewport={"width": width, "height": height}) as tab:
        bottom = tab.locator(".epochs").bounding_box()["y"]
        for part in (".verdict", ".mistakes"):
            box = tab.locator(part).bounding_box()
            assert box["y"] + box["height"] <= bottom
        # at least half of the first chart
        box = tab.locator(".plot:visible").first.bounding_box()
        charts = [one.bounding_box() for one in tab.locator(".plot").all()]
        assert min(box["y"] + box["height"] / 2 for box in charts) <= bottom
        assert tab.locator(".mistakes li").count() == 4
        assert not tab.evaluate("document.documentElement.scrollWidth > innerWidth")


def test_mistakes_are_the_most_confident_ones_at_the_epoch_of_the_results(browser, page):
    folder = page.parent
    # of the best epoch, which the verdict beside them is about
    kept = json.loads((folder / "plots/confusion_matrix/epoch_001_images.json").read_text())
    wrong = [n for n, label in enumerate(kept["labels"]) if label != kept["predictions"][n]]
    with opened(browser, page) as tab:
        shown = [text.split("\n")[-1] for text in tab.locator(".mistakes li").all_inner_texts()]
        by_cell = {}
        for n in sorted(wrong, key=lambda n: -kept["confidences"][n]):
            by_cell.setdefault((kept["labels"][n], kept["predictions"][n]), []).append(kept["confidences"][n])
        # the first of each of the three cells, and the most confident of the others
        others = [share for shares in by_cell.values() for share in shares[1:]]
        expected = [shares[0] for shares in by_cell.values()] + [max(others)]
        assert shown == [f"{100 * share:.1f}%" for share in sorted(expected, reverse=True)]


def test_a_page_without_sections_of_a_place_stays_at_the_top(browser, tmp_path):
    from pellucid.storage.store import Store

    store = Store(tmp_path)
    store.begin(run_record())
    store.add_metrics(metrics_line(0))
    with opened(browser, write_report(tmp_path), is_lazy=True) as tab:
        tab.evaluate("() => { location.hash = '#nowhere&image=3'; }")
        tab.wait_for_timeout(100)
        assert tab.evaluate("() => scrollY") == 0
