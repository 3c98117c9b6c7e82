"""The page in a real browser, as a new user walks it. Screenshots lie in `out/screenshots`, to be looked at."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 600_000
"""ms that the browser waits for what must come to pass, on a slow machine."""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
PICTURES = Path(__file__).parents[2] / "out" / "screenshots"

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'layerflow[test]'")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A studio as the command line starts it, with the mini."""
    with served(tmp_path_factory) as url:
        yield url


@contextmanager
def served(tmp_path_factory: pytest.TempPathFactory, *options: str) -> Iterator[str]:
    """Start a studio; yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "layerflow.cli", "studio", "--port", str(port)]
    log = tmp_path_factory.mktemp("log") / "studio.log"
    with log.open("w") as out:
        work = str(tmp_path_factory.mktemp("work"))
        server = subprocess.Popen([*command, "--work", work, *options], stdout=out, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 900
        while True:
            try:
                urllib.request.urlopen(f"{url}/api/studio", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        with_chromium = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield with_chromium
        with_chromium.close()


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """A page of a user of their own; fails when it asks anybody but the studio, or a script breaks."""
    context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    wrong: list[str] = []
    page.on("request", lambda request: _ours(request.url, address) or wrong.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: message.type == "error" and wrong.append(message.text))
    page.goto(address)
    api.expect(page.locator("#examples button").first).to_be_visible(timeout=PATIENCE)
    try:
        yield page
    finally:
        context.close()
    wrong = [one for one in wrong if "status of 422" not in one]  # the browser's note of an answer that is asked for
    assert wrong == []


def _ours(url: str, address: str) -> bool:
    return url.startswith((address + "/", "blob:", "data:"))


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    with opened(browser, address) as one:
        yield one


def shoot(page: Any, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=True)


def settings(page: Any, **values: Any) -> None:
    if not page.locator("#seed").is_visible():
        page.get_by_text("Settings", exact=True).click()
    for id, value in values.items():
        box = page.locator(f"#{id}")
        box.select_option(str(value)) if id == "upscale" else box.fill(str(value))


def make_quickly(page: Any, **values: Any) -> None:
    page.locator("#examples button").first.click()
    settings(page, **{"steps": 3, "upscale": 1, **values})
    page.get_by_role("button", name="Make", exact=True).click()


def shown(page: Any) -> None:
    api.expect(page.locator("#controls")).to_be_visible(timeout=PATIENCE)
    api.expect(page.locator("#working")).to_be_hidden(timeout=PATIENCE)
    if page.locator("#play").inner_text() == "Pause":
        page.locator("#play").click()


PIXELS = """() => { const c = document.querySelector("#panes canvas");
  const pixels = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
  return pixels.reduce((hash, value) => (hash * 31 + value) | 0, 7) }"""


def changes(page: Any, does: Callable[[], Any]) -> bool:
    before = page.evaluate(PIXELS)
    does()
    page.evaluate("() => new Promise(requestAnimationFrame)")
    return bool(page.evaluate(PIXELS) != before)


def test_example_is_generated_viewed_and_exported(page: Any) -> None:
    shoot(page, "1-first-sight")
    page.locator("#examples button").first.click()
    assert page.locator("#foreground").input_value() == "a red balloon rising"
    settings(page, steps=12, upscale=1)
    page.get_by_role("button", name="Make", exact=True).click()
    api.expect(page.locator("#preview")).to_be_visible(timeout=PATIENCE)
    api.expect(page.locator("#progress-text")).to_have_text(re.compile(r"step \d+ of 12"), timeout=PATIENCE)
    shoot(page, "2-preview")
    shown(page)
    shoot(page, "3-layers")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))

    # layers, one by one and alone
    assert changes(page, lambda: page.locator("#show-background").uncheck())
    assert changes(
        page,
        lambda: page.locator("#colour").evaluate("(e) => { e.value = '#ff00ff'; e.dispatchEvent(new Event('input')) }"),
    )
    shoot(page, "4-on-colour")
    assert changes(page, lambda: page.get_by_role("button", name="alpha alone").click())
    shoot(page, "5-alpha")
    assert changes(page, lambda: page.get_by_role("button", name="alpha alone").click())
    assert page.locator("#show-background").is_checked()

    # time
    assert changes(page, lambda: page.get_by_role("button", name="Forward one frame").click())
    assert page.locator("#frame-text").inner_text().endswith("/8")
    assert changes(
        page,
        lambda: page.locator("#scrub").evaluate(
            "(e) => { e.value = e.value > 3 ? 0 : 7; e.dispatchEvent(new Event('input')) }"
        ),
    )

    # the foreground, moved and scaled; the edge, near
    box = page.locator("#panes canvas").bounding_box()

    def drag() -> None:
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2, steps=4)
        page.mouse.up()

    page.locator("#panes canvas").scroll_into_view_if_needed()
    box = page.locator("#panes canvas").bounding_box()
    assert changes(page, drag)
    assert changes(page, lambda: page.locator("#scale").fill("1.5"))
    shoot(page, "6-moved")
    page.get_by_role("button", name="Put all back").click()
    assert changes(page, lambda: page.get_by_role("button", name="Zoom to an edge").click())
    shoot(page, "7-edge")

    # by keyboard
    page.get_by_role("button", name="Put all back").click()
    page.locator("#panes").focus()
    assert changes(page, lambda: page.keyboard.press("ArrowRight"))
    assert changes(page, lambda: page.keyboard.press("1"))
    assert changes(page, lambda: page.keyboard.press("1"))
    assert changes(page, lambda: page.keyboard.press("Alt+ArrowUp"))
    page.keyboard.press("End")  # which may be where it is already
    assert changes(page, lambda: page.keyboard.press("Home"))
    page.keyboard.press("Space")
    api.expect(page.locator("#play")).to_have_text("Pause")
    page.keyboard.press("Space")
    asked = {url for url in requests if "/api/jobs?session" not in url}
    assert not asked, f"looking at layers asked the server for {asked}"

    # out
    page.locator("#preset").select_option("web")
    page.get_by_role("button", name="Export").click()
    link = page.get_by_role("link", name="Download layerflow-web.zip")
    api.expect(link).to_be_visible(timeout=PATIENCE)
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "layerflow-web.zip"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square that moves over a gradient."""
    import torch

    from layerflow.media import write_video

    colour = torch.linspace(0, 1, 64).expand(8, 3, 64, 64).clone()
    for n in range(8):
        colour[n, :, 20:40, 4 + 4 * n : 20 + 4 * n] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    return write_video(tmp_path_factory.mktemp("clip") / "a clip of mine.mp4", colour, fps=8.0)


def test_uploaded_clip_is_decomposed(page: Any, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("these are only words, whatever the name says")
    page.locator("#file-blended").set_input_files(tmp_path / "notes.mp4")
    api.expect(page.locator("#error")).to_contain_text("the kind of file is unknown")
    shoot(page, "8-wrong-file")
    page.locator("#file-blended").set_input_files(clip)
    api.expect(page.locator("#given-blended")).to_contain_text("8 frames of 64\u00d764", timeout=PATIENCE)
    api.expect(page.locator("#error")).to_be_hidden()
    assert page.locator("#task").inner_text() == "decompose"
    settings(page, steps=3, upscale=1)
    page.get_by_role("button", name="Make", exact=True).click()
    shown(page)
    page.locator("#beside").select_option("input")
    api.expect(page.locator("#panes canvas")).to_have_count(2)
    shoot(page, "9-decomposed")


def test_empty_request_shows_an_error(page: Any) -> None:
    page.get_by_role("button", name="Make", exact=True).click()
    api.expect(page.locator("#error")).to_contain_text("prompts for foreground and background are needed")


def test_job_is_cancelled_and_run_again(page: Any) -> None:
    make_quickly(page, steps=200)
    api.expect(page.locator("#progress-text")).to_have_text(re.compile(r"step [1-9]\d* of 200"), timeout=PATIENCE)
    page.get_by_role("button", name="Cancel").click()
    api.expect(page.locator("#history li").first).to_contain_text("cancelled", timeout=PATIENCE)
    shoot(page, "10-cancelled")
    page.get_by_role("button", name=re.compile("^Again with a change")).first.click()
    assert page.locator("#steps").input_value() == "200"
    settings(page, steps=3, seeds=2)
    page.get_by_role("button", name="Make", exact=True).click()
    api.expect(page.locator("#panes canvas")).to_have_count(2, timeout=PATIENCE)
    shown(page)
    assert page.locator("#panes figcaption").all_inner_texts() == ["seed 0", "seed 1"]
    shoot(page, "11-seeds")
    swap = page.locator("#swap option").nth(2).get_attribute("value")
    page.locator("#swap").select_option(swap)
    page.get_by_role("button", name="keep foreground for the next run").click()
    assert page.locator("#task").inner_text() == "add-background"


def test_clicks_and_foregrounds_are_kept_when_a_job_is_run_again(page: Any) -> None:
    make_quickly(page)
    shown(page)
    submit = """async () => {
      const { api } = await import("/static/api.js");
      const [first] = await api.jobs();
      const given = { blended: { job: first.id, clip: "blended" } };
      await api.submit({ foreground: ["a fox"], given, object: ["9,8@0"], steps: 2, upscale: 1 });
    }"""
    page.evaluate(submit)
    api.expect(page.locator("#history li")).to_have_count(2, timeout=PATIENCE)
    page.get_by_role("button", name=re.compile("^Again with a change")).first.click()
    assert page.locator("#foreground").input_value() == "a fox"
    page.get_by_role("button", name="Make", exact=True).click()
    api.expect(page.locator("#history li")).to_have_count(3, timeout=PATIENCE)
    newest = page.evaluate('async () => (await (await import("/static/api.js")).api.jobs())[0].request')
    assert newest["object"] == ["9,8@0"]
    page.locator("#drop-blended").click()
    page.locator("#foreground").fill("a fox\n\na dog")
    page.locator("#background").fill("hills")
    page.get_by_role("button", name="Make", exact=True).click()
    api.expect(page.locator("#history li")).to_have_count(4, timeout=PATIENCE)
    newest = page.evaluate('async () => (await (await import("/static/api.js")).api.jobs())[0].request')
    assert newest["foreground"] == ["a fox", "a dog"]
    assert "object" not in newest


def test_two_users_get_their_own_layers(browser: Any, address: str) -> None:
    with opened(browser, address) as one, opened(browser, address) as two:
        for page, prompt in ((one, "a blue star"), (two, "a green apple")):
            page.locator("#foreground").fill(prompt)
            page.locator("#background").fill("a beach")
            settings(page, steps=3, upscale=1)
            page.get_by_role("button", name="Make", exact=True).click()
        for page, prompt in ((one, "a blue star"), (two, "a green apple")):
            shown(page)
            assert page.locator("#history li").count() == 1
            assert prompt in page.locator("#history li").inner_text()


def test_phone_in_dark_mode(browser: Any, address: str) -> None:
    with opened(browser, address, viewport={"width": 375, "height": 740}, color_scheme="dark", has_touch=True) as page:
        make_quickly(page)
        shown(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        shoot(page, "12-phone-dark")
    assert os.listdir(PICTURES)


NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, canvas, [role=group]")]
  .filter((e) => !(e.labels?.length || e.textContent.trim() || e.hasAttribute("aria-label")))
  .map((e) => e.outerHTML)"""


def test_controls_have_accessible_names(page: Any) -> None:
    make_quickly(page)
    shown(page)
    assert page.evaluate(NAMELESS) == []


def test_several_foregrounds_are_listed_and_reordered(
    browser: Any, tmp_path_factory: pytest.TempPathFactory, tiny_stack: Path
) -> None:
    with served(tmp_path_factory, "--model", str(tiny_stack)) as url, opened(browser, url) as page:
        page.locator("#foreground").fill("a red fox\n\na ball")
        page.locator("#background").fill("green hills")
        settings(page, steps=2)
        page.get_by_role("button", name="Make", exact=True).click()
        shown(page)
        names = ["background", "foreground-2", "foreground", "blended", "alpha", "alpha-2"]
        assert [text.split()[0] for text in page.locator("#layers .row").all_inner_texts()] == names
        shoot(page, "20-two-foregrounds")
        assert changes(page, lambda: page.get_by_role("button", name="move foreground-2 nearer").click())
        rows = page.locator("#layers .row").all_inner_texts()
        assert [text.split()[0] for text in rows] == ["background", "foreground", "foreground-2", *names[3:]]
        assert changes(page, lambda: page.locator("#show-foreground-2").uncheck())
        with page.expect_request(lambda request: request.url.endswith("/exports")) as sent:
            page.locator("#export-make").click()
        assert sent.value.post_data_json["order"] == ["foreground-2", "foreground"]
        api.expect(page.locator("#export-text a")).to_be_visible(timeout=PATIENCE)

        # a foreground of a run as the first one of the next
        page.get_by_role("button", name="keep foreground-2 for the next run").click()
        assert "foreground-2" in page.locator("#given-foreground").inner_text()
        assert "alpha-2" in page.locator("#given-alpha").inner_text()
