"""Prometheus' rules and Grafana's dashboard: checked by promtool, and by a real Prometheus that scrapes a real path."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from penstock.cli import app
from tests.penstock.stream.gateways import ROOT, gateway
from tests.servers.programs import free_port, program, until
from tests.servers.prometheus import prometheus

RULES = ROOT / "deploy/prometheus/stream.rules.yml"
CASES = ROOT / "deploy/prometheus/stream.test.yml"
CONFIG = ROOT / "deploy/prometheus/prometheus.yml"
BOARD = ROOT / "deploy/grafana/dashboards/stream.json"
RUNBOOK = ROOT / "docs/runbooks/stream.md"
# A metric, maybe with a choice of labels; neither a function nor a label.
SELECTOR = re.compile(r"\b((?:penstock[:_]|process_|up\b|ALERTS\b)[\w:]*)(\{[^}]*\})?(?!\()")

# Expressions that give nothing while all is well, and why.
EMPTY = {'ALERTS{alertname=~"Penstock.*",alertstate="firing"}': "no alert fires"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(BOARD.read_text())["panels"] if panel["type"] != "row"]


def of_dashboard() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def promtool(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [program("promtool", package="prometheus"), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


# --- rules ------------------------------------------------------------------------------------------


def test_configuration_and_rules_are_what_prometheus_takes():
    checked = promtool("check", "config", CONFIG)
    assert checked.returncode == 0, checked.stderr
    assert "SUCCESS: 1 rule files found" in checked.stdout


def test_each_alert_fires_when_it_is_to_and_not_else():
    tested = promtool("test", "rules", CASES)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    fires, silent = set(), set()
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for check in case["alert_rule_test"]:
            (fires if check["exp_alerts"] else silent).add(check["alertname"])
    assert fires == silent == set(alerts())


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alert_that_never_fires_would_be_found(name, tmp_path):
    shutil.copy(CASES, tmp_path)
    content = yaml.safe_load(RULES.read_text())
    for group in content["groups"]:
        for rule in group["rules"]:
            if rule.get("alert") == name:
                rule["expr"] = "vector(0) > 1"
    (tmp_path / RULES.name).write_text(yaml.safe_dump(content))
    assert promtool("test", "rules", CASES.name, cwd=tmp_path).returncode != 0


def test_every_alert_says_how_bad_it_is_and_where_it_is_told_what_to_do():
    headings = {line[3:].strip() for line in RUNBOOK.read_text().splitlines() if line.startswith("## ")}
    for name, alert in alerts().items():
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks/stream.md#{name.lower()}"
    assert {heading for heading in headings if heading.startswith("Penstock")} == set(alerts())


def commands(group: Any, before: tuple[str, ...] = ()) -> dict[tuple[str, ...], set[str]]:
    """Every command of the command line, with its options."""
    found = {}
    for name, command in getattr(group, "commands", {}).items():
        path = (*before, name)
        found[path] = {option for parameter in command.params for option in parameter.opts}
        found |= commands(command, path)
    return found


def test_the_runbook_names_commands_that_there_are():
    known = commands(typer.main.get_command(app))
    lines = re.findall(r"^(?:\$ )?penstock (.+)$|`penstock ([^`]+)`", RUNBOOK.read_text(), re.MULTILINE)
    assert len(lines) > 10
    for parts in lines:
        words = "".join(parts).partition("#")[0].split()
        path = next(tuple(words[:n]) for n in (3, 2, 1) if tuple(words[:n]) in known)
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= known[path], words
        # A group by itself does nothing.
        assert not any(len(other) > len(path) and other[: len(path)] == path for other in known), words


# --- the dashboard ----------------------------------------------------------------------------------


def test_the_dashboard_is_whole_and_its_panels_do_not_overlap():
    board = json.loads(BOARD.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource"}
    cells: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        taken = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= taken
    for panel in panels():
        sources = {json.dumps(part["datasource"]) for part in (panel, *panel["targets"])}
        assert sources == {'{"type": "prometheus", "uid": "${datasource}"}'}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_grafana_is_told_of_the_datasource_and_the_dashboards():
    provisioning = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://127.0.0.1:9090")
    scrape = yaml.safe_load(CONFIG.read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scrape
    (provider,) = yaml.safe_load((provisioning / "dashboards/penstock.yml").read_text())["providers"]
    assert provider["type"] == "file"


@contextmanager
def indexer(folder: Path, *overrides: str):
    """An indexer in a process of its own; where its metrics are."""
    port = free_port()
    options = [
        f"log.folder={folder}/log",
        f"store.path={folder}/readings.duckdb",
        f"lake.path={folder}/lake",
        "lake.file_age=2s",
        f"indexer.metrics_port={port}",
        "indexer.activity=null",
    ]
    command = [sys.executable, "-m", "penstock.cli", "stream", "indexer", "embedded", *options, *overrides]

    def answers() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready") as answer:
            return answer.status == 200
        return False

    with (folder / "indexer.out").open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT)
    try:
        until(answers, "the indexer", process)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def test_a_real_prometheus_finds_what_dashboard_and_rules_ask_for(tmp_path):
    with gateway(tmp_path) as running, indexer(tmp_path) as metrics_port:
        config = yaml.safe_load(CONFIG.read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(RULES)]
        ports = {"penstock-gateway": running.port, "penstock-indexer": metrics_port}
        for job in config["scrape_configs"]:
            job["static_configs"] = [{"targets": [f"127.0.0.1:{ports[job['job_name']]}"]}]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        with prometheus(tmp_path / "prometheus.yml", tmp_path) as asked:
            options = ["--devices", "3", "--seconds", "600", "--speed", "1", "--batch", "0.5"]
            command = [
                sys.executable,
                "-m",
                "penstock.cli",
                "stream",
                "replay",
                "--url",
                running.url,
                *options,
            ]
            phones = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                for ready in (
                    "rate(penstock_indexer_windows_total[10s]) > 0",
                    "rate(penstock_indexer_lake_readings_total[20s]) > 0",
                    "penstock:indexer_stored_seconds:p99_5m > 0",
                    "penstock_indexer_lake_lag_records and penstock_indexer_windows_lag_records",
                ):
                    until(lambda ready=ready: bool(asked.query(ready)), ready, phones)
                _everything(asked)
            finally:
                phones.terminate()
                phones.wait()


def _finite(samples: list[dict[str, Any]]) -> bool:
    return bool(samples) and all(math.isfinite(float(sample["value"][1])) for sample in samples)


def _everything(asked: Any) -> None:
    # Rates are taken over four scrapes, as Grafana does.
    for expression in (text.replace("$__rate_interval", "10s") for text in of_dashboard()):
        until(lambda expression=expression: _finite(asked.query(expression)), expression)
    told = {rule["name"]: rule for group in asked.get("rules")["groups"] for rule in group["rules"]}
    for rule in rules():
        name = rule.get("record") or rule["alert"]
        assert told[name]["health"] == "ok", told[name]
        if "record" in rule:
            assert asked.query(name), name
        else:
            assert told[name]["state"] != "firing", told[name]
    # An alert gives nothing while all is well: what it looks at is there all the same.
    annotations = json.loads(BOARD.read_text())["annotations"]["list"]
    drawn = [entry["expr"] for entry in annotations if "expr" in entry]
    assert set(drawn) <= set(EMPTY)
    for expression in [rule["expr"] for rule in rules()] + of_dashboard():
        for metric, labels in SELECTOR.findall(expression):
            assert asked.query(f"{metric}{labels}"), f"{metric}{labels} in {expression}"
