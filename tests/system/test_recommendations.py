"""`penstock recommend`: the page in a real browser, and the hold-out of the graph lived again."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import httpx
import polars as pl
import pytest

from penstock.artifact.recommender_model import load
from tests.penstock.recommend.toys import recommender as toy
from tests.penstock.recommend.toys import write_artefact
from tests.penstock.serving.recommender.recommenders import ROOT, recommender
from tests.servers.programs import program

RATINGS = {"model": ROOT / "models/ratings", "interactions": ROOT / "data/prepared/ratings.parquet"}


def test_the_page_changes_at_once_in_a_real_browser(tmp_path):
    from playwright.sync_api import expect, sync_playwright

    chromium = program("chromium", package="chromium")
    with (
        recommender(tmp_path, "workers=2", "exploration.cold_share=0", "exploration.share=0") as running,
        sync_playwright() as playwright,
    ):
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
        page.goto(f"{running.url}/")
        first = page.locator("#list li .title").first
        expect(page.locator("#list li")).to_have_count(10, timeout=20_000)
        expect(first).to_have_text("Film 0 (1980)")
        expect(page.locator("#state")).to_have_text("popular with everyone")
        expect(page.locator("#none-past")).to_be_visible()

        # Found by words, rated by keyboard alone.
        page.locator("#q").focus()
        page.keyboard.type("film 20")
        expect(page.locator("#found li")).to_have_count(1)
        page.keyboard.press("Tab")
        expect(page.locator("#genre")).to_be_focused()
        for _ in range(5):
            page.keyboard.press("Tab")
        expect(page.get_by_role("button", name="5 of 5 for Film 20 (2000)")).to_be_focused()
        page.keyboard.press("Enter")
        expect(first).to_have_text("Film 21 (2001)")
        expect(page.locator("#list li .reason").first).to_have_text("because you rated Film 20 (2000) 5")
        expect(page.locator("#state")).to_have_text("from what you did")
        expect(page.locator("#past li")).to_have_count(1)

        # Rated in the list: it leaves the list.
        page.get_by_role("button", name="4 of 5 for Film 21 (2001)").click()
        expect(page.locator("#list li[data-item='21']")).to_have_count(0)
        expect(page.locator("#past li").first).to_contain_text("Film 21 (2001)")
        expect(page.locator("#list")).to_be_focused()

        page.locator("#diversity").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator("#diversity-said")).to_have_text("0.1")
        page.locator("#only").select_option("War")
        expect(page.locator("#list li .about").first).to_have_text("War")
        expect(page.locator("#list li .about", has_text=re.compile("Drama|Comedy"))).to_have_count(0)
        page.locator("#only").select_option("")

        page.get_by_role("button", name="Take back Film 21 (2001)").click()
        expect(first).to_have_text("Film 21 (2001)")
        page.locator("#reset").click()
        expect(first).to_have_text("Film 0 (1980)")
        expect(page.locator("#past li")).to_have_count(0)
        assert (
            httpx.get(f"{running.url}/").headers["content-security-policy"].startswith("default-src 'none'")
        )
        assert hosts <= {f"127.0.0.1:{running.port}", ""}
        assert told == []
        browser.close()


@pytest.fixture
def split(tmp_path):
    """An artefact, and users of its items whose last item judges."""
    import numpy as np

    model = toy(seed=5)
    write_artefact(tmp_path / "model", model)
    draws = np.random.default_rng(3)
    rows = []
    for user in range(30):
        items = draws.choice(np.append(model.ids, 10**6), draws.integers(2, 30), replace=False)
        for at, item in enumerate(items.tolist()):
            part = "holdout" if at == len(items) - 1 else "train"
            rows.append(
                {"user": str(user), "item": item, "time": 1000 + at // 3, "rating": 3.0, "part": part}
            )
    frame = pl.DataFrame(rows).with_columns(pl.from_epoch("time", time_unit="s").dt.replace_time_zone("UTC"))
    frame.write_parquet(tmp_path / "ratings.parquet")
    return tmp_path / "ratings.parquet"


def replay(tmp_path, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penstock.cli", "recommend", "replay", "--url", url]
    files = ["--interactions", f"{tmp_path}/ratings.parquet", "--model", f"{tmp_path}/model"]
    return subprocess.run([*command, *files, *options], cwd=ROOT, capture_output=True, text=True, check=False)


def test_online_is_offline(tmp_path, split):
    """Every user of the hold-out is told online what the artefact tells offline, and nothing of them stays."""
    plain = ("workers=2", "exploration.share=0", "exploration.cold_share=0")
    with recommender(tmp_path, *plain) as running:
        done = replay(tmp_path, running.url)
        assert done.returncode == 0, done.stderr + done.stdout
        found = re.fullmatch(
            r"30 users: HR@10 online (\S+), offline (\S+); every list is the same\n", done.stdout
        )
        assert found is not None, done.stdout
        # By hand, without the code that is tested.
        model = load(tmp_path / "model")
        frame = pl.read_parquet(split)
        hits = 0
        for (_,), rows in frame.group_by("user", maintain_order=True):
            items = rows["item"].to_list()
            hits += items[-1] in model.recommend([items[:-1]], k=10).items[0].tolist()
        assert found[1] == found[2] == f"{hits / 30:.4f}"
        assert running.client.get("/v1/users/replay-0").json()["total"] == 0


def test_the_real_hold_out_is_judged_online_as_it_was_offline(tmp_path):
    """MovieLens: every user of the hold-out, through the server, gives the hit rate that the graph has reported."""
    for path in RATINGS.values():
        assert path.exists(), f"{path} is not here: `make run` makes it, `dvc pull` fetches it"
    plain = ("workers=2", "exploration.share=0", "exploration.cold_share=0", f"model={RATINGS['model']}")
    with recommender(tmp_path, *plain) as running:
        command = [sys.executable, "-m", "penstock.cli", "recommend", "replay", "--url", running.url]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr + done.stdout
        reported = json.loads((ROOT / "reports/ratings/evaluation.json").read_text())
        winner = json.loads((RATINGS["model"] / "manifest.json").read_text())["model"]
        rate = f"{reported[winner]['hit_rate']:.4f}"
        assert done.stdout == (
            f"{reported['users']} users: HR@{reported['k']} online {rate}, offline {rate}; every list is the same\n"
        )


def test_a_rule_that_makes_online_another_than_offline_is_found_out(tmp_path, split):
    with recommender(tmp_path, "exploration.share=0", "rules.max_per_genre=2") as running:
        done = replay(tmp_path, running.url, "--users", "10")
        assert done.returncode == 1
        assert "lists differ" in done.stdout
