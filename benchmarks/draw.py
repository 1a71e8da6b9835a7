"""Time of the network in the report: logits and three maps of one image, in Chromium, on one thread.

python benchmarks/draw.py REPORT.html [--images 200] [--json FILE]
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

BOUNDS = {
    "one image, median, ms": 50.0,
    "first image, with decoding, ms": 500.0,
    "from pen to painted result, ms": 100.0,
}
"""Upper bounds for the default network on images of 28×28 pixels."""

RUN = """async (count) => {
  const size = pellucid.modelInput.reduce((all, one) => all * one);
  const image = () => Float32Array.from({ length: size }, () => Math.random());
  const began = performance.now();
  await pellucid.runModel(image());
  const first = performance.now() - began;
  const times = [];
  for (let number = 0; number < count; number += 1) {
    const start = performance.now();
    await pellucid.runModel(image(), number % 2);
    times.push(performance.now() - start);
  }
  return { first, times };
}"""
STROKE = """async (count) => {
  const canvas = document.querySelector("[data-draw] canvas");
  const root = canvas.closest("section");
  root.scrollIntoView();
  const box = canvas.getBoundingClientRect();
  const send = (kind, share) => {
    const [x, y] = [0.5 + 0.3 * Math.cos(6 * share), 0.5 + 0.3 * Math.sin(6 * share)];
    canvas.dispatchEvent(new PointerEvent(kind, { bubbles: true, button: 0, pointerId: 1,
      clientX: box.left + x * box.width, clientY: box.top + y * box.height }));
  };
  canvas.setPointerCapture = () => null; // the pointer exists only here
  send("pointerdown", 0);
  const times = [];
  for (let number = 1; number <= count; number += 1) {
    const start = performance.now();
    send("pointermove", number / count);
    while ("pending" in root.dataset) await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - start);
  }
  send("pointerup", 1);
  return times;
}"""


def measure(page: Path, images: int) -> dict[str, float]:
    """Return the readings in milliseconds."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        tab = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True).new_page()
        tab.goto(f"{page.as_uri()}#draw")
        tab.wait_for_selector("#draw[data-created]")
        times = tab.evaluate(RUN, images)
        strokes = tab.evaluate(STROKE, images)
        browser.close()
    return {
        "one image, median, ms": float(np.median(times["times"])),
        "one image, 95th percentile, ms": float(np.quantile(times["times"], 0.95)),
        "first image, with decoding, ms": float(times["first"]),
        "from pen to painted result, ms": float(np.median(strokes)),
    }


def main() -> None:
    """Measure a report, print the readings next to their bounds, and exit with 1 if one is missed."""
    parser = argparse.ArgumentParser(description="Time of the network in the report.")
    parser.add_argument("page", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    readings = measure(given.page.resolve(), given.images)
    if given.json:
        given.json.write_text(json.dumps(readings, indent=1) + "\n", encoding="utf-8")
    for name, value in readings.items():
        bound = f"  (bound {BOUNDS[name]:g})" if name in BOUNDS else ""
        print(f"{name}: {value:.1f}{bound}")
    raise SystemExit(any(readings[name] > bound for name, bound in BOUNDS.items()))


if __name__ == "__main__":
    main()
