"""The studio in a real browser, the Chromium of the distribution, with a small network."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import content_and_style, save_model, stylise
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOW = "no {} here: pip install '.[test]', and apt-get install chromium"
for name in ("gradio", "playwright.sync_api", "axe_playwright_python.sync_playwright"):
    pytest.importorskip(name, reason=HOW.format(name))
if CHROMIUM is None:
    pytest.skip(HOW.format("Chromium"), allow_module_level=True)

from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import Page, expect, sync_playwright  # noqa: E402

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update")
FLAGS += ("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",)
# Milliseconds that anything may take on a busy machine.
PATIENCE = 90_000


class Server:
    """A studio in a process of its own."""

    def __init__(self, world: Path, *flags: str) -> None:
        self.folder, self.notes = world / "takes", world / "addresses.txt"
        self.output = world / "server.txt"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, ROOT / "tests" / "studio_server.py", self.notes),
                    *(f"--model={world / 'model'}", f"--takes={self.folder}"),
                    *(f"--networks={world}", *flags),
                ],
                stderr=file,
                env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
            )
        for _ in range(1200):
            found = re.search(r"open (http\S+) in a browser", self.output.read_text())
            if found or self.process.poll() is not None:
                break
            time.sleep(0.1)
        assert found, self.output.read_text()
        self.url = found[1]

    def interrupt(self) -> int:
        """Ctrl-C, and the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A network and pictures; the server writes its takes here."""
    world = content_and_style(tmp_path_factory.mktemp("world"))
    save_model(world / "model")
    (world / "text.png").write_text("this is no picture")
    return world


@pytest.fixture(scope="module")
def server(world):
    server = Server(world)
    yield server
    server.process.kill()


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, server):
    """Open the page as one more person; what it asks for beyond this machine fails the test."""
    contexts, asked_for = [], []

    def visit(width: int = 1400) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 1000})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked_for.append(request.url))
        page.goto(server.url)
        expect(button(page, "Start")).to_be_visible(timeout=PATIENCE)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not [url for url in asked_for if not url.startswith((server.url, "data:", "blob:"))]


def button(page: Page, name: str):
    return page.get_by_role("button", name=name, exact=True)


def choose(page: Page, world: Path, steps: int, size: int = 64, content: str = "content") -> None:
    """Upload two pictures and set the size of the work."""
    page.set_input_files("#content input[type=file]", world / f"{content}.png")
    page.set_input_files("#styles input[type=file]", world / "style.png")
    expect(page.locator("#content img")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("#styles img").first).to_be_visible(timeout=PATIENCE)
    page.locator("#size input").fill(str(size))
    page.locator("#steps input").fill(str(steps))
    page.locator("#steps input").blur()


def standing(page: Page, text: str) -> None:
    """Wait until the panel says this."""
    expect(page.locator("#panel figcaption")).to_contain_text(text, timeout=PATIENCE)


def fetched(page: Page, name: str, folder: Path) -> Path:
    """A file that a button gives."""
    with page.expect_download(timeout=PATIENCE) as download:
        page.locator(f"#{name}").click()
    target = folder / download.value.suggested_filename
    download.value.save_as(target)
    return target


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_a_picture_is_watched_stopped_and_gone_on_with(visit, world, tmp_path):
    page = visit()
    choose(page, world, steps=3000)
    button(page, "Start").click()
    seen: list[str | None] = []
    for _ in range(3):
        if seen:
            page.wait_for_function(
                "last => document.querySelector('#picture').src !== last", arg=seen[-1]
            )
        seen.append(page.locator("#picture").get_attribute("src"))
    assert len(set(seen)) == 3
    button(page, "Stop").click()
    standing(page, "stopped")
    picture, flags = (fetched(page, f"get_{what}", tmp_path) for what in ("picture", "flags"))
    assert stylise(f"--flagfile={flags}", f"--output={tmp_path / 'again.png'}") == 0
    np.testing.assert_array_equal(pixels(picture), pixels(tmp_path / "again.png"))
    done = int(re.search(r"(\d+) of", page.locator("figcaption").inner_text())[1])
    button(page, "Go on").click()
    standing(page, "running")
    button(page, "Stop").click()
    standing(page, "stopped")
    assert int(re.search(r"(\d+) of", page.locator("figcaption").inner_text())[1]) > done
    assert "--range_weight=1000\n" in flags.read_text()
    # Other settings go on from the picture, as another take.
    page.get_by_text("Losses, layers and colours").click()
    page.locator("#range_weight input").fill("500")
    page.locator("#range_weight input").blur()
    page.locator("#steps input").fill("2")
    page.locator("#steps input").blur()
    button(page, "Go on").click()
    standing(page, "finished")
    flags = fetched(page, "get_flags", tmp_path).read_text()
    assert "--init=" in flags and "begin.png" in flags
    assert "--range_weight=500\n" in flags


def test_two_takes_are_compared_by_a_slider(visit, world):
    page = visit()
    for steps in (1, 2):
        choose(page, world, steps=steps)
        button(page, "Start").click()
        standing(page, f"finished, {steps} of {steps}")
        page.reload()  # the takes stay
        expect(button(page, "Start")).to_be_visible(timeout=PATIENCE)
    page.get_by_text("Compare two takes").click()
    for side, i in (("Left", 0), ("Right", 1)):
        page.get_by_label(side, exact=True).click()
        page.get_by_role("option").nth(i).click()
    expect(page.locator("#compare img").first).to_be_visible(timeout=PATIENCE)


def test_the_style_goes_where_it_is_painted(visit, server, world):
    page = visit()
    choose(page, world, steps=1)
    page.get_by_text("Paint where each style goes").click()
    canvas = page.locator("#painting canvas").first
    expect(canvas).to_be_visible(timeout=PATIENCE)
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(1500)  # the content is laid under the brush
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 30, y)
    page.mouse.down()
    page.mouse.move(x + 30, y, steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)
    button(page, "Start").click()
    standing(page, "finished")
    mask = max(server.folder.glob("take_*"), key=lambda path: path.name) / "mask_1.png"
    painted = pixels(mask) > 0
    assert painted[20, 30] and not painted[0, 0]


def test_a_wrong_file_is_told_of_in_a_sentence(visit, world):
    page = visit()
    page.set_input_files("#content input[type=file]", world / "text.png")
    page.set_input_files("#styles input[type=file]", world / "style.png")
    expect(page.locator("#styles img").first).to_be_visible(timeout=PATIENCE)
    page.wait_for_timeout(1000)
    button(page, "Start").click()
    message = page.get_by_text("Expected a picture. Received: text.png")
    expect(message).to_be_visible(timeout=PATIENCE)


def test_a_second_person_waits_in_the_queue(visit, world):
    first, second = visit(), visit()
    choose(first, world, steps=5000, size=96)
    button(first, "Start").click()
    standing(first, "running")
    choose(second, world, steps=2)
    button(second, "Start").click()
    standing(second, "1 before it")
    first.close()  # stops nothing
    third = visit()
    running = third.locator("#strip button", has_text="running")
    expect(running).to_have_count(1, timeout=PATIENCE)
    assert "1 before it" in second.locator("figcaption").inner_text()
    # Who looks at a take of the strip may stop it.
    running.click()
    standing(third, "running")
    button(third, "Stop").click()
    standing(second, "finished")


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_fits_and_can_be_read_by_all(visit, world, width):
    page = visit(width)
    choose(page, world, steps=2)
    button(page, "Start").click()
    standing(page, "finished")
    for more in ("Losses, layers and colours", "Paint where each style goes", "Compare two takes"):
        page.get_by_text(more).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for tab in ("Make", "Apply", "Network"):
        page.get_by_role("tab", name=tab).click()
        found = Axe().run(page).response["violations"]
        serious = [v for v in found if v["impact"] in ("serious", "critical")]
        told = [(v["id"], [n["html"][:200] for n in v["nodes"]][:3]) for v in serious]
        assert not told, told


def test_a_page_that_nobody_touches_takes_little(browser, server):
    page = browser.new_page()
    page.add_init_script(
        """const next = requestAnimationFrame.bind(window);
        window.frames_asked_for = 0;
        window.requestAnimationFrame = draw => { window.frames_asked_for++; return next(draw); };"""
    )
    page.goto(server.url)
    expect(button(page, "Start")).to_be_visible(timeout=PATIENCE)
    page.wait_for_timeout(2000)
    before = page.evaluate("window.frames_asked_for")
    page.wait_for_timeout(1000)
    assert page.evaluate("window.frames_asked_for") - before < 10  # Gradio's own are 60 a second
    page.close()


def test_the_keyboard_is_enough(visit, world):
    page = visit()
    choose(page, world, steps=2)
    button(page, "Start").focus()
    page.keyboard.press("Enter")
    standing(page, "finished")


def test_the_report_of_a_network_is_a_page(visit):
    page = visit()
    page.get_by_role("tab", name="Network").click()
    expect(page.locator("#report")).to_be_visible(timeout=PATIENCE)


def test_ctrl_c_saves_the_picture_and_nothing_was_asked_of_the_network(visit, server, world):
    page = visit()
    choose(page, world, steps=5000)
    button(page, "Start").click()
    standing(page, "running")
    before = set(server.folder.glob("*/take_*.png"))
    assert server.interrupt() == 130
    assert len(set(server.folder.glob("*/take_*.png")) - before) == 1
    assert not server.notes.exists(), server.notes.read_text()
