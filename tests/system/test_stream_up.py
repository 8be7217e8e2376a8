"""`penstock stream up`: all of it in one command, looked at in a real browser, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.servers.programs import free_port, program, until

ROOT = Path(__file__).parents[2]
SHOTS = os.environ.get("PENSTOCK_SCREENSHOTS")  # a folder: pictures for the documentation


@dataclass
class Up:
    """It, running."""

    process: subprocess.Popen[bytes]
    folder: Path
    gate: int
    metrics: int
    page: int

    @property
    def overrides(self) -> list[str]:
        return [
            f"gateway.port={self.gate}",
            f"indexer.metrics_port={self.metrics}",
            f"page.port={self.page}",
            f"log.folder={self.folder}/log",
            f"store.path={self.folder}/readings.duckdb",
            f"lake.path={self.folder}/lake",
        ]

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    def answers(self) -> bool:
        return all(
            got(f"http://127.0.0.1:{port}/health/live") for port in (self.gate, self.metrics, self.page)
        )

    def replay(self, *options: str) -> subprocess.Popen[bytes]:
        url = f"http://127.0.0.1:{self.gate}"
        return subprocess.Popen(
            [*penstock("replay"), "--url", url, *options],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def penstock(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "penstock.cli", "stream", *arguments]


def got(url: str) -> str | None:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())
    return None


def children(pid: int) -> dict[str, int]:
    """Of a supervisor, by the part that they run."""
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        with contextlib.suppress(ValueError):
            found[command[command.index(b"stream") + 1].decode()] = int(child)
    return found


@contextlib.contextmanager
def up(folder: Path) -> Iterator[Up]:
    running = Up(None, folder, free_port(), free_port(), free_port())  # type: ignore[arg-type]
    with (folder / "out").open("ab") as out:
        running.process = subprocess.Popen(
            penstock("up", "embedded", *running.overrides), cwd=ROOT, stdout=out, stderr=out
        )
    try:
        until(running.answers, "penstock stream up", running.process)
        yield running
    finally:
        if running.process.poll() is None:
            running.process.terminate()
            running.process.wait(60)


def gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_what_dies_is_started_again_and_all_ends_when_it_is_told_to(tmp_path):
    with up(tmp_path) as running:
        before = children(running.process.pid)
        assert set(before) == {"gateway", "indexer", "page"}
        for part in before.values():
            os.kill(part, signal.SIGKILL)
        until(lambda: children(running.process.pid).keys() == before.keys(), "the parts", running.process)
        until(running.answers, "the parts", running.process)
        after = children(running.process.pid)
        assert not set(before.values()) & set(after.values())
        assert running.out.count("it is started again") == 3
        assert "gateway has ended (signal SIGKILL)" in running.out
        server = json.loads((tmp_path / "log/server.json").read_text())["pid"]
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60) == 0
        assert all(gone(pid) for pid in after.values())
        until(lambda: gone(server), "the end of the log's server", None)


def test_status_says_how_it_is_and_exits_with_it(tmp_path):
    def status(running: Up, *options: str) -> subprocess.CompletedProcess[str]:
        command = [*penstock("status", "embedded", *running.overrides), *options]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    with up(tmp_path) as running:
        running.replay("--devices", "2", "--seconds", "5", "--speed", "0").wait(60)
        until(lambda: status(running).stdout.find("s ago") > 0, "readings in the store", running.process)
        well = status(running)
        assert well.returncode == 0, well.stderr
        assert re.search(r"waiting +\d+ messages \(partition 0: ", well.stdout)
    away = status(running)
    assert away.returncode == 1
    assert f"gateway: nothing answers at http://127.0.0.1:{running.gate}" in away.stderr


def test_the_page_shows_what_comes_in_a_real_browser(tmp_path):
    from playwright.sync_api import expect, sync_playwright

    chromium = program("chromium", package="chromium")
    with up(tmp_path) as running, sync_playwright() as playwright:
        url = f"http://127.0.0.1:{running.page}/"
        # Chromium's own sandbox wants rights that root in a container lacks; what it opens here is ours.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
        told: list[str] = []
        hosts: set[str] = set()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on(
            "request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else "")
        )
        page.goto(url)
        expect(page.locator("#none")).to_be_visible()
        expect(page.locator("#state")).to_have_text("nothing comes", timeout=15_000)

        phones = running.replay("--devices", "3", "--seconds", "120", "--speed", "1")
        try:
            buttons = page.locator(".device")
            expect(buttons).to_have_count(3, timeout=20_000)
            expect(page.locator("#state")).to_have_text("live", timeout=20_000)
            line = page.locator("figure[data-name=gyroscope] polyline").first
            first = line.get_attribute("points", timeout=20_000)
            expect(line).not_to_have_attribute("points", first or "")  # it moves
            expect(page.locator("figure")).to_have_count(2)
            expect(page.locator("figure svg").first).to_have_attribute(
                "aria-label", re.compile(r"gyroscope, the last 30 seconds: x, y, z between .* rad/s")
            )
            # The model of the graph, on what comes.
            expect(page.locator("#activity")).to_have_text(re.compile(r"^[a-z ]+, \d+ %$"), timeout=30_000)
            readings = page.locator("#t-readings")
            expect(readings).to_have_text(re.compile(r"^[23]\d\d"), timeout=20_000)

            # By keyboard alone.
            page.keyboard.press("Tab")
            expect(page.locator(".skip")).to_be_focused()
            page.keyboard.press("Tab")
            expect(buttons.first).to_be_focused()
            page.keyboard.press("ArrowDown")
            page.keyboard.press("ArrowDown")
            expect(buttons.nth(2)).to_be_focused()
            expect(buttons.nth(2)).to_have_attribute("aria-pressed", "true")
            expect(page.locator("#chosen")).to_have_text("watch-002")
            page.keyboard.press("Home")
            expect(page.locator("#chosen")).to_have_text("watch-000")

            dead_letter(running)
            expect(page.locator("#dead tbody tr")).to_have_count(1, timeout=20_000)
            expect(page.locator("#dead tbody tr")).to_contain_text("a-device")
            expect(page.locator("#dead tbody tr")).to_contain_text("record")
            if SHOTS:
                take_pictures(page, Path(SHOTS))
            os.kill(children(running.process.pid)["gateway"], signal.SIGSTOP)
            try:
                expect(page.locator("#state")).to_contain_text("does not answer", timeout=20_000)
            finally:
                os.kill(children(running.process.pid)["gateway"], signal.SIGCONT)
        finally:
            phones.kill()
            phones.wait()
        assert hosts <= {f"127.0.0.1:{running.page}", ""}
        assert told == []
        browser.close()


def dead_letter(running: Up) -> None:
    """Append what is no message to the log, past the gateway that would refuse it."""
    from penstock.stream.declared import declared
    from penstock.stream.log import open_log

    async def append() -> None:
        view = declared("embedded", running.overrides, ROOT)
        async with open_log(view.log) as log:
            await log.append(view.log.readings.name, b"a-device", b'{"messageId": "no"}', {})

    # In a thread: the browser's driver has a loop in this one.
    with ThreadPoolExecutor() as pool:
        pool.submit(asyncio.run, append()).result()


def take_pictures(page, folder: Path) -> None:
    page.wait_for_timeout(10_000)  # for the charts to fill: nothing is asserted by it
    folder.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=folder / f"stream-live-{scheme}.png", full_page=True)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:80"])
def test_a_name_that_was_made_to_point_here_is_not_served(tmp_path, host):
    from starlette.testclient import TestClient

    from penstock.stream.live import Live
    from penstock.stream.page_serving import Beside, create_page

    with TestClient(create_page(Live(), Beside()), base_url="http://127.0.0.1") as client:
        answer = client.get("/")
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert client.get("/", headers={"host": host}).status_code == 400
        assert client.get("/../status.py").status_code == 404
        assert client.get("/live.css").headers["content-type"].startswith("text/css")
