"""Speed and size of a report in Chromium, with the CPU as it is and throttled.

The page is opened from disk in a new context each round. It counts as interactive once its script has run, the first
screen is painted, and the main thread has been idle for a frame. A step of the epoch slider is measured from the input
event to the painted frame, with every section created and the reader at each section in turn.

    python benchmarks/report.py REPORT.html [--rounds 5] [--json FILE]
"""

import argparse
import json
import shutil
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

BOUNDS = {
    "interactive, s": 1.5,
    "interactive, CPU throttled 4×, s": 4.0,
    "slider step, slowest section, ms": 100.0,
    "creation of the slowest section, ms": 300.0,
    "size, MB": 8.0,
}
"""Upper bounds; the pages of long runs may have up to 14.5 MB."""

PAINTED = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"


@contextmanager
def opened(browser: Browser, page: Path, throttle: float) -> Iterator[tuple[Page, CDPSession]]:
    """Open a report with the CPU slowed down by a factor."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, offline=True)
    tab = context.new_page()
    session = context.new_cdp_session(tab)
    session.send("Emulation.setCPUThrottlingRate", {"rate": throttle})
    tab.goto(page.as_uri(), wait_until="commit")
    tab.wait_for_selector("#curves[data-created], main section[data-created]", timeout=60_000)
    yield tab, session
    context.close()


def interactive(browser: Browser, page: Path, throttle: float) -> float:
    """Return the seconds from the start of the navigation until the page reacts."""
    with opened(browser, page, throttle) as (tab, _):
        return float(tab.evaluate(PAINTED)) / 1000


def creation(browser: Browser, page: Path) -> dict[str, float]:
    """Return the milliseconds in which each section is created and filled, in an order from the top to the bottom."""
    with opened(browser, page, 1) as (tab, _):
        names = tab.evaluate("() => Object.keys(pellucid.sections)")
        measure = """async (name) => {
            const began = performance.now();
            await pellucid.ensure(name);
            await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
            return performance.now() - began;
        }"""
        return {name: float(tab.evaluate(measure, name)) for name in names}


def slider(browser: Browser, page: Path) -> dict[str, float]:
    """Return the milliseconds of a step of the slider with the reader at each section; empty for a single epoch."""
    with opened(browser, page, 1) as (tab, _):
        if not tab.locator("#epoch").count():
            return {}
        names = tab.evaluate("() => Object.keys(pellucid.sections)")
        for name in names:
            tab.evaluate("(name) => pellucid.ensure(name)", name)
        step = """async ([name, position]) => {
            document.getElementById(name).scrollIntoView();
            await new Promise((done) => setTimeout(done, 700)); // what has come near is painted meanwhile
            const slider = document.getElementById("epoch");
            const began = performance.now();
            slider.value = position;
            slider.dispatchEvent(new Event("input"));
            await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
            return performance.now() - began;
        }"""
        positions = range(int(tab.locator("#epoch").get_attribute("max") or 0))
        return {name: max(float(tab.evaluate(step, [name, position])) for position in positions) for name in names}


def measure(page: Path, rounds: int) -> dict[str, Any]:
    """Return the medians over the rounds, and the times by section."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        # in turn, so that a change of the machine's speed meets both
        pairs = [(interactive(browser, page, 1), interactive(browser, page, 4)) for _ in range(rounds)]
        created = [creation(browser, page) for _ in range(rounds)]
        steps = [slider(browser, page) for _ in range(rounds)]
        browser.close()
    by_section = {
        "creation, ms": {name: statistics.median(one[name] for one in created) for name in created[0]},
        "slider, ms": {name: statistics.median(one[name] for one in steps) for name in steps[0]},
    }
    plain, slow = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "interactive, s": plain,
        "interactive, CPU throttled 4×, s": slow,
        "slider step, slowest section, ms": max(by_section["slider, ms"].values(), default=0.0),
        "creation of the slowest section, ms": max(by_section["creation, ms"].values()),
        "size, MB": page.stat().st_size / 1e6,
        "sections": by_section,
    }


def main() -> None:
    """Measure a report, print the readings next to their bounds, and exit with 1 if one is missed."""
    parser = argparse.ArgumentParser(description="Speed and size of a report in Chromium.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    readings = measure(given.page.resolve(), given.rounds)
    for name, bound in BOUNDS.items():
        print(f"{name:<40} {readings[name]:8.2f}  ≤ {bound:g}  {'pass' if readings[name] <= bound else 'missed'}")
    for name, values in readings["sections"].items():
        print(name, {section: round(value, 1) for section, value in values.items()})
    if given.json:
        given.json.write_text(json.dumps(readings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    raise SystemExit(any(readings[name] > bound for name, bound in BOUNDS.items()))


if __name__ == "__main__":
    main()
