"""`penstock rollout up`: real predictors of a real artefact, changed under load, looked at in a real browser, and ended."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from penstock.artifact.manifest import MANIFEST, MODEL, read
from penstock.rollout.smoke import is_ready, sample_row
from penstock.rollout.upstream import Pool
from tests.servers.programs import free_port, program, until

ROOT = Path(__file__).parents[2]
SHOTS = os.environ.get("PENSTOCK_SCREENSHOTS")  # a folder: pictures for the documentation
HEAD = b"POST /v1/models/churn/predict HTTP/1.1\r\ncontent-type: application/json\r\n"


def small_model(folder: Path, weight: float) -> Path:
    """An artefact of two columns, made by hand: sigmoid(weight · x)."""
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Mul", ["x", "w"], ["wx"]),
        helper.make_node("Sigmoid", ["wx"], ["one"]),
        helper.make_node("Sub", ["unit", "one"], ["zero"]),
        helper.make_node("Concat", ["zero", "one"], ["probabilities"], axis=1),
        helper.make_node("Greater", ["one", "half"], ["above"]),
        helper.make_node("Where", ["above", "yes", "no"], ["label2"]),
        helper.make_node("Reshape", ["label2", "flat"], ["label"]),
    ]
    constants = [
        helper.make_tensor("w", TensorProto.FLOAT, [1], [weight]),
        helper.make_tensor("unit", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("half", TensorProto.FLOAT, [1], [0.5]),
        helper.make_tensor("yes", TensorProto.STRING, [1], [b"Yes"]),
        helper.make_tensor("no", TensorProto.STRING, [1], [b"No"]),
        helper.make_tensor("flat", TensorProto.INT64, [1], [-1]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1]) for name in ("x", "z")],
        [
            helper.make_tensor_value_info("label", TensorProto.STRING, [None]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2]),
        ],
        constants,
    )
    content = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10
    ).SerializeToString()
    column = {"type": "number", "min": 0, "max": 9}
    manifest = {
        "format": 1, "name": folder.name, "title": "small", "task": "binary", "target": "y",
        "sha256": hashlib.sha256(content).hexdigest(), "opset": {"ai.onnx": 17},
        "inputs": [{"name": key, "element": "float", "column": column} for key in ("x", "z")],
        "outputs": [
            {"name": "label", "element": "string", "shape": ["rows"]},
            {"name": "probabilities", "element": "float", "shape": ["rows", 2]},
        ],
        "classes": ["No", "Yes"], "positive": "Yes", "threshold": 0.5, "metrics": {}, "parameters": {},
        "data_sha256": "", "code_sha256": "", "versions": {},
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / MODEL).write_bytes(content)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@dataclass
class Up:
    """It, running."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    ports: int
    one: Path
    two: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def overrides(self) -> list[str]:
        return [
            f"router.port={self.port}",
            f"ports={self.ports}",
            f"state.path={self.folder}/state.sqlite",
            f"requests.folder={self.folder}/requests",
            f"truths={self.folder}/truths",
            f"arms={{champion: {{artifact: '{self.one}', replicas: 2}}, next: {{artifact: '{self.two}'}}}}",
            "tick=PT0.2S",
        ]

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    def ready(self, replicas: int = 3) -> bool:
        urls = [self.url, f"http://127.0.0.1:{self.ports}", f"http://127.0.0.1:{self.ports + 1}"]
        return all(
            is_ready(url, "churn") for url in [*urls, f"http://127.0.0.1:{self.ports + 16}"][: 1 + replicas]
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        given = [f"--with={one}" for one in self.overrides]
        command = [*penstock(arguments[0], "churn"), *arguments[1:], *given]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    @property
    def version(self) -> dict[str, str]:
        return {read(folder).sha256[:12]: folder.name for folder in (self.one, self.two)}


def penstock(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "penstock.cli", "rollout", *arguments]


@contextlib.contextmanager
def up(folder: Path) -> Iterator[Up]:
    one, two = small_model(folder / "one", 0.5), small_model(folder / "two", -0.5)
    running = Up(None, folder, free_port(), min(free_port(), 59_000), one, two)  # type: ignore[arg-type]
    with (folder / "out").open("ab") as out:
        running.process = subprocess.Popen(
            penstock("up", "churn", *running.overrides), cwd=ROOT, stdout=out, stderr=out
        )
    try:
        until(running.ready, "penstock rollout up", running.process)
        yield running
    finally:
        if running.process.poll() is None:
            running.process.terminate()
            running.process.wait(60)


class Load:
    """Asks all the time from a loop of its own; every answer is looked at."""

    def __init__(self, running: Up, connections: int = 4) -> None:
        self.running, self.connections = running, connections
        self.answers: Counter[str] = Counter()
        self.wrong: list[object] = []
        self.ended = False
        self.since_change: Counter[str] = Counter()

    async def run(self) -> None:
        pool = Pool(self.running.url, self.connections, 1_000_000)
        body = json.dumps({"rows": [sample_row(read(self.running.one).columns)]}).encode()
        names = self.running.version

        async def one() -> None:
            while not self.ended:
                try:
                    answer = await pool.ask(HEAD, body, 30)
                    told = json.loads(answer.body)
                    version = answer.headers[b"x-model-version"].decode()
                    if answer.status != 200 or told["version"] != version:
                        self.wrong.append((answer.status, told))
                    self.answers[names[version]] += 1
                    self.since_change[names[version]] += 1
                except Exception as error:
                    self.wrong.append(error)

        await asyncio.gather(*(one() for _ in range(self.connections)))
        pool.close()


@contextlib.contextmanager
def load(running: Up) -> Iterator[Load]:
    import threading

    found = Load(running)
    thread = threading.Thread(target=lambda: asyncio.run(found.run()))
    thread.start()
    try:
        until(lambda: sum(found.answers.values()) > 50, "answers", running.process)
        yield found
    finally:
        found.ended = True
        thread.join()


def gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_versions_change_under_load_and_nothing_is_lost(tmp_path):
    with up(tmp_path) as running:
        with load(running) as asked:
            # Blue and green, there and back.
            green = ["strategy.kind=blue_green", "strategy.live=champion", "strategy.idle=next"]
            found = running.run("set", *green, "--why", "the new one is trained")
            assert found.returncode == 0, found.stderr
            for name in ("two", "one"):
                found = running.run("promote")
                assert found.returncode == 0, found.stderr
                # The command has come back: from here on, whatever is asked is answered by the other.
                until(lambda: sum(asked.since_change.values()) > 20, "answers", running.process)
                asked.since_change.clear()
                until(lambda: sum(asked.since_change.values()) > 50, "answers", running.process)
                assert set(asked.since_change) == {name}

            # A predictor is killed, and started again.
            (victim,) = [
                pid
                for pid in children(running.process.pid)
                if f"port={running.ports}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
            ]
            os.kill(victim, signal.SIGKILL)
            until(lambda: f"champion/0 has ended (signal SIGKILL)" in running.out, "its end", running.process)  # noqa: F541
            until(running.ready, "the predictor", running.process)

            # Replica by replica to the other artefact.
            found = running.run("set", "strategy.kind=rolling", f"strategy.artifact={running.two}")
            assert found.returncode == 0, found.stderr
            until(lambda: "roll champion/1" in running.out, "the end of the roll", running.process)
            until(lambda: sum(asked.since_change.values()) > 20, "answers", running.process)
            asked.since_change.clear()
            until(lambda: sum(asked.since_change.values()) > 50, "answers", running.process)
            assert set(asked.since_change) == {"two"}
        assert asked.wrong == []
        found = running.run(
            "set", "strategy.kind=canary", "strategy.canary=next", "strategy.steps=[150]", "strategy.bake=10m"
        )
        assert found.returncode == 2
        assert "less than or equal to 100" in found.stderr

        status = running.run("status")
        assert status.returncode == 0, status.stderr
        assert "champion answers" in status.stdout
        history = running.run("history")
        assert history.returncode == 0
        assert "the new one is trained" in history.stdout
        assert [line.split("  ")[0] for line in history.stdout.splitlines()] == [
            str(number) for number in range(1, len(history.stdout.splitlines()) + 1)
        ]
        parts = children(running.process.pid)
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(60) == 0, running.out[-2000:]
        assert all(gone(pid) for pid in parts)
    logged = list((tmp_path / "requests/churn").rglob("*.parquet"))
    assert logged, "the request log"


def test_a_supervisor_that_is_killed_leaves_nobody_behind(tmp_path):
    with up(tmp_path) as running:
        parts = children(running.process.pid)
        assert len(parts) == 5
        running.process.kill()
        running.process.wait()
        until(lambda: all(gone(pid) for pid in parts), "the end of the parts")


def test_a_corrupt_artefact_is_refused_and_changes_nothing(tmp_path):
    with up(tmp_path) as running:
        bad = tmp_path / "bad"
        shutil.copytree(running.two, bad)
        (bad / MODEL).write_bytes(b"not a model")
        found = running.run("set", f"arms.next.artifact={bad}")
        assert found.returncode == 2
        assert "does not match its manifest" in found.stderr
        # Its manifest agrees, and yet it is no model: it never gets ready, and the roll goes back by itself.
        manifest = json.loads((bad / MANIFEST).read_text())
        manifest["sha256"] = hashlib.sha256(b"not a model").hexdigest()
        (bad / MANIFEST).write_text(json.dumps(manifest))
        with load(running) as asked:
            roll = ["strategy.kind=rolling", f"strategy.artifact={bad}", "strategy.ready=5s"]
            found = running.run("set", *roll)
            assert found.returncode == 0, found.stderr
            until(
                lambda: "rollback: champion/0 is not ready within 5 s" in running.out,
                "going back",
                running.process,
            )
            until(lambda: "return champion/0" in running.out, "the replica", running.process)
        assert asked.wrong == []
        assert set(asked.answers) == {"one"}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example"])
def test_who_may_act(tmp_path, host):
    """Another site's page can neither read the console nor act, and nor can a form of it."""
    from prometheus_client import CollectorRegistry
    from starlette.testclient import TestClient

    from penstock.rollout import settings as rules
    from penstock.rollout.audit import Intent
    from penstock.rollout.back import create_back
    from penstock.rollout.shared import Shared
    from penstock.rollout.state import open_store
    from tests.penstock.rollout.routers import declaration

    view = declaration(tmp_path, {"a": ["http://127.0.0.1:1"]}, {"kind": "single", "champion": "a"})
    store = open_store(view)
    store.change(None, rules.begun(view.plan(), ""), Intent("me", "declare", ""))
    store.close()
    shared = Shared(view, rules.begun(view.plan(), ""))
    with TestClient(create_back(view, shared, CollectorRegistry()), base_url="http://127.0.0.1") as client:
        page = client.get("/console/")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert client.get("/console/", headers={"host": host}).status_code == 400
        assert client.get("/console/../back.py").status_code == 404
        assert client.get("/console/state").status_code == 401
        assert client.post("/admin/pause", json={}).status_code == 401
        mark = {"x-penstock-console": "1"}
        assert (
            client.post("/admin/pause", json={"why": "look"}, headers=mark | {"host": host}).status_code
            == 400
        )
        assert client.post("/admin/pause", json={"why": "look"}, headers=mark).json() == {"version": 2}
        assert client.post("/admin/pause", json={"how": "?"}, headers=mark).status_code == 422
        refused = client.post("/admin/rollback", json={}, headers=mark)
        assert (refused.status_code, "nothing to roll back" in refused.json()["error"]) == (409, True)
        assert client.post("/admin/explode", json={}, headers=mark).status_code == 409
        found = client.get("/console/state", headers=mark).json()
        assert found["history"][0]["who"] == "loopback"
        assert found["broken"] is None
    asyncio.run(shared.close())


def test_the_console_in_a_real_browser(tmp_path):
    from playwright.sync_api import expect, sync_playwright

    chromium = program("chromium", package="chromium")
    with up(tmp_path) as running, sync_playwright() as playwright:
        found = running.run(
            "set", "strategy.kind=canary", "strategy.canary=next", "strategy.steps=[20, 50]", "strategy.bake=10m",
            "kpi.source=correct",
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        with load(running) as asked:
            until(lambda: asked.answers["two"] > 20, "the canary's answers", running.process)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000}, color_scheme="light")
        told: list[str] = []
        hosts: set[str] = set()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on(
            "request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else "")
        )
        page.goto(f"{running.url}/console/")
        expect(page.locator("#state")).to_have_text("live", timeout=20_000)
        expect(page.locator("#model")).to_have_text("Rollout of churn")
        expect(page.locator("#verdict")).to_contain_text("next at step 1 of 2, 20 %", timeout=20_000)
        expect(page.locator("#bar")).to_have_attribute("aria-label", "champion 80 %, next 20 %")
        arm = page.locator("#arms tbody tr").nth(1)
        expect(arm.locator("td").nth(2)).to_have_text(re.compile(r"^\d+$"))
        expect(page.locator("#replicas tbody tr")).to_have_count(3)
        expect(page.locator("#trail tbody tr").first).to_contain_text("set")
        expect(page.locator("#chain")).to_contain_text("unbroken")
        if SHOTS:
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(SHOTS) / "rollout-console.png", full_page=True)

        # By keyboard alone: the button asks once, and may be left alone.
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.locator("#rollback")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#ask")).to_be_visible()
        expect(page.locator("#consequence")).to_have_text("champion answers everything, at once.")
        page.keyboard.press("Escape")
        expect(page.locator("#ask")).to_be_hidden()
        expect(page.locator("#strategy")).to_contain_text("canary")
        page.locator("#rollback").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#why")).to_be_focused()
        page.keyboard.type("the page says so")
        page.keyboard.press("Enter")
        expect(page.locator("#strategy")).to_contain_text("single", timeout=20_000)
        expect(page.locator("#trail tbody tr").first).to_contain_text("the page says so")
        expect(page.locator("#trail tbody tr").first).to_contain_text("loopback")
        expect(page.locator("#bar")).to_have_attribute("aria-label", "champion 100 %, next 0 %")
        assert hosts <= {f"127.0.0.1:{running.port}", ""}
        assert told == []
        browser.close()
