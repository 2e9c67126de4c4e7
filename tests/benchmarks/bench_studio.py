"""What the studio costs: python tests/benchmarks/bench_studio.py --content=photo.jpg --style=painting.jpg

Prints how long the first paint takes once the server is up, and the seconds of an evaluation with no
page open and with one that shows every picture, in turns; the browser runs on the same processor.
Needs the extra [test] and Chromium.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from playwright.sync_api import Page, sync_playwright

import style.studio
from style.cli.settings import Settings
from style.studio.takes import Stage

# Counts the pictures that the page has shown.
COUNT = """() => { window.shown = new Set();
  new MutationObserver(() => { const p = document.querySelector('#picture');
    if (p) window.shown.add(p.src.length + p.src.slice(-64)); })
  .observe(document, {childList: true, subtree: true, attributes: true}); }"""


def run(studio: style.studio.Studio, asked: Settings, page: Page | None) -> float:
    """Seconds of an evaluation after the first two, which trace."""
    take = studio.queue.start(asked)
    if page is not None:
        page.locator("#strip button", has_text=f"{take.title}, running").click()
    while take.stage in (Stage.WAITING, Stage.RUNNING):
        time.sleep(0.05)
    assert take.stage is Stage.FINISHED, take.message
    first, last = take.curve[2], take.curve[-1]
    return (last.seconds - first.seconds) / (last.evaluations - first.evaluations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--content", required=True)
    parser.add_argument("--style", required=True)
    parser.add_argument("--model", default="vgg19")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        studio = style.studio.launch(model=arguments.model, takes=folder)
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        paints, alone, watched = [], [], []
        for _ in range(arguments.rounds):
            page = browser.new_page()
            began = time.perf_counter()
            page.goto(studio.url)
            page.get_by_role("button", name="Start", exact=True).wait_for()
            paints.append(time.perf_counter() - began)
            page.close()
        asked = Settings(
            output="",
            model=arguments.model,
            content=arguments.content,
            style=(arguments.style,),
            size=arguments.size,
            steps=arguments.steps,
        )
        shown = 0
        for _ in range(arguments.rounds):
            alone.append(run(studio, asked, None))
            page = browser.new_page()
            page.goto(studio.url)
            page.get_by_role("button", name="Start", exact=True).wait_for()
            page.evaluate(COUNT)
            watched.append(run(studio, asked, page))
            page.wait_for_timeout(500)
            shown = max(shown, page.evaluate("window.shown.size"))
            page.close()
        browser.close()
        studio.close()
    print(f"first paint: {statistics.median(paints):.2f} s")
    ratio = statistics.median(w / a for w, a in zip(watched, alone, strict=True))
    print(
        f"an evaluation at {arguments.size} pixels: {statistics.median(alone):.3f} s alone, "
        f"{statistics.median(watched):.3f} s watched, ratio {ratio:.3f}; the page showed {shown} of "
        f"{arguments.steps} pictures"
    )


if __name__ == "__main__":
    main()
