"""The studio in a browser and under load.

    python benchmarks/studio.py                         # first paint, layer toggle, export, load for 3 minutes
    python benchmarks/studio.py --seconds 30 --clients 20

First paint and toggle need Chromium and `pip install 'layerflow[test]'`; without them they are left out. All
layers of 16 frames of 720x480 are exported.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from layerflow import LayeredVideo, save_layers
from layerflow.media.export import PRESETS
from layerflow.studio.entry_points import export_layers
from layerflow.studio.raw_frames import write_raw
from layerflow.studio.sandbox import confined

PROMPTS = {"foreground": "a red balloon rising", "background": "green hills", "steps": 2, "upscale": 1}
ENDED = ("done", "failed", "cancelled", "interrupted")


def call(url: str, body: Any = None, method: str | None = None) -> Any:
    """Send a request; return its JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


@contextlib.contextmanager
def served(*options: str) -> Iterator[tuple[str, int]]:
    """Yield address and process id of a studio with the mini."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "layerflow.cli", "studio", "--port", str(port), "--work", work, *options]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        try:
            while True:
                with contextlib.suppress(OSError):
                    call(f"{url}/api/studio")
                    break
                if server.poll() is not None:
                    raise SystemExit("the studio did not start; run `layerflow studio` to see why")
                time.sleep(0.1)
            yield url, server.pid
        finally:
            server.terminate()
            server.wait(60)


def measure_export(places: Sequence[str]) -> None:
    """Return seconds of each export of 16 frames of 720x480, in a sandboxed process as in the studio."""
    generator = torch.Generator().manual_seed(0)
    small = {name: torch.rand(16, 3, 30, 45, generator=generator) for name in ("foreground", "background")}
    alpha = torch.zeros(16, 1, 30, 45)
    alpha[:, :, 8:22, 12:33] = 1
    video = LayeredVideo(**small, alpha=alpha).resize(480, 720).compose()
    with tempfile.TemporaryDirectory() as folder:
        layers = Path(folder) / "layers"
        save_layers(video, layers, ["ffv1"])
        write_raw(video, layers.parent)
        confined(len, "warm", seconds=600, memory=2**32)
        for preset in places:
            started = time.perf_counter()
            confined(
                export_layers,
                layers,
                Path(folder) / f"{preset}.zip",
                preset,
                None,
                0.0,
                "00:00:00:00",
                seconds=600,
                memory=2**33,
            )
            print(f"export {preset}: {time.perf_counter() - started:.2f} s (16 frames of 720x480)")


PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
TOGGLES = """async () => {
  const box = document.getElementById("show-foreground"), canvas = document.querySelector("#panes canvas");
  const times = [], context = canvas.getContext("2d");
  for (let n = 0; n < 40; n++) {
    const started = performance.now();
    box.click();
    context.getImageData(0, 0, 1, 1); // waits until it is drawn
    times.push(performance.now() - started);
    await new Promise(requestAnimationFrame);
  }
  return times;
}"""


def measure_page(url: str) -> None:
    """Return first contentful paint, and the time from a click on a layer's box to its pixels, in ms."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        print("first paint, toggle: left out, there is no chromium or no playwright")
        return
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        paints = []
        for _ in range(5):
            page = browser.new_page()
            page.goto(url)
            page.wait_for_function(f"{PAINT} > 0", timeout=60_000)
            paints.append(page.evaluate(PAINT))
            page.close()
        print(f"first paint: {statistics.median(paints):.0f} ms, slowest {max(paints):.0f} ms, of {len(paints)} visits")
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        page.locator("#examples button").first.click()
        page.get_by_text("Settings", exact=True).click()
        page.locator("#steps").fill("2")
        page.get_by_role("button", name="Make", exact=True).click()
        page.wait_for_selector("#controls:not([hidden])", timeout=300_000)
        page.locator("#play").click()
        times = sorted(page.evaluate(TOGGLES))
        print(f"layer toggle: {statistics.median(times):.2f} ms, slowest {times[-1]:.2f} ms, of {len(times)}")
        browser.close()


def held(pid: int) -> float:
    """Return the memory of a process and its children in MiB."""
    found = 0
    with contextlib.suppress(psutil.Error):
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                found += process.memory_info().rss
    return found / 2**20


class Load:
    """Clients that submit jobs, follow them and fetch their files; each checks the files that were announced."""

    def __init__(self, url: str, end: float) -> None:
        self.url, self.end = url, end
        self.promised: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.answers: list[float] = []

    def client(self, number: int) -> None:
        """Run one client until the time is up and its job has ended."""
        chance = random.Random(number)
        while time.monotonic() < self.end:
            try:
                asked = {**PROMPTS, "seed": chance.randrange(1000), "session": f"client{number}"}
                id = call(f"{self.url}/api/jobs", asked)["id"]
            except urllib.error.HTTPError as error:
                self.counts[f"refused {error.code}"] += 1
                time.sleep(chance.uniform(0.5, 2))
                continue
            self.promised[id] = "queued"
            cancels = chance.random() < 0.1
            while self.promised[id] not in ENDED:
                started = time.perf_counter()
                self.promised[id] = call(f"{self.url}/api/jobs/{id}")["state"]
                self.answers.append(time.perf_counter() - started)
                if cancels:
                    call(f"{self.url}/api/jobs/{id}/cancel", {})
                time.sleep(0.3)
            self.counts[self.promised[id]] += 1
            if self.promised[id] == "done":
                with urllib.request.urlopen(f"{self.url}/api/jobs/{id}/sheets/foreground.png", timeout=60) as picture:
                    self.counts["fetched"] += bool(picture.read())


def measure_load(url: str, pid: int, clients: int, seconds: float) -> None:
    """Run many clients at once; report lost jobs, growth of memory and failed requests."""
    load = Load(url, time.monotonic() + seconds)
    threads = [threading.Thread(target=load.client, args=(n,)) for n in range(clients)]
    for thread in threads:
        thread.start()
    memory: list[float] = []
    while any(thread.is_alive() for thread in threads):
        memory.append(held(pid))
        time.sleep(1)
    there = {job["id"]: job["state"] for job in call(f"{url}/api/jobs?limit=1000")}
    lost = [id for id, state in load.promised.items() if there.get(id) != state]
    answers = sorted(load.answers)
    part = max(1, len(memory) // 4)
    first, last = statistics.median(memory[part : 2 * part] or memory), statistics.median(memory[-part:])
    jobs = f"{len(load.promised)} jobs, {len(lost)} lost, {dict(load.counts)}"
    print(f"load: {clients} clients for {seconds:g} s: {jobs}")
    print(
        f"load: an answer takes {1000 * statistics.median(answers):.0f} ms, of 100 the slowest "
        f"{1000 * answers[int(0.99 * (len(answers) - 1))]:.0f} ms"
    )
    print(f"load: server and children hold {first:.0f} MiB in the second quarter, {last:.0f} MiB in the last")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180, help="of load; 180 by default")
    parser.add_argument("--clients", type=int, default=20)
    places = parser.add_argument("--export", nargs="*", choices=list(PRESETS), default=["editors", "compositing"])
    places.help = "what to export; web and game compress harder and take longer"
    arguments = parser.parse_args()
    measure_export(arguments.export)
    with served() as (url, pid):
        measure_page(url)
        if arguments.seconds > 0:
            measure_load(url, pid, arguments.clients, arguments.seconds)


if __name__ == "__main__":
    main()
