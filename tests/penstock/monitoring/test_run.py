"""From the log to alerts: what `penstock monitor` does with a real artefact, a real log and a real Alertmanager."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.errors import PenstockError
from penstock.maintenance import run as maintenance
from penstock.monitoring.history import Mute
from penstock.monitoring.metrics import exposition
from penstock.monitoring.page import monitor_page
from penstock.monitoring.run import Monitoring, declared
from tests.penstock.monitoring.answering import ROWS, START, Log, rows, write_repository
from tests.servers.programs import free_port, program, until

LATER = START + timedelta(days=2)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_repository(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def monitoring(root: Path, *overrides: str) -> Monitoring:
    return Monitoring("toy", declared("toy", list(overrides), root), root)


def broken(frame: pl.DataFrame) -> pl.DataFrame:
    """Incomes in thousandths of what they were."""
    return frame.with_columns(pl.col("income") / 1000)


def test_clean_windows_are_quiet_and_a_fault_is_told_once(repository):
    log = Log(repository)
    for number in range(4):
        log.hour(number, rows(ROWS, number))
    quiet = monitoring(repository).run(LATER)
    assert [(one.rows, one.causes) for one in quiet.judged] == [(ROWS, [])] * 4

    for number in (4, 5):
        log.hour(number, broken(rows(ROWS, number)))
    told = monitoring(repository).run(LATER)
    assert len(told.judged) == 2
    assert [alert.cause for alert in told.change.raised] == ["inputs"]
    assert "0.001 times as large" in told.change.raised[0].headline
    assert monitoring(repository).run(LATER).change.raised == []

    for number in (6, 7):
        log.hour(number, rows(ROWS, number))
    over = monitoring(repository).run(LATER)
    assert [alert.cause for alert in over.change.cleared] == ["inputs"]


def test_the_same_log_gives_the_same_history(repository):
    log = Log(repository)
    for number in range(3):
        log.hour(number, rows(ROWS, number) if number < 2 else broken(rows(ROWS, 2)))
    once = monitoring(repository)
    once.run(LATER)
    before = once.history.windows()
    assert once.run(LATER).judged == []
    again = monitoring(repository).run(LATER, since=START)
    assert len(again.judged) == len(before) == 3
    assert once.history.windows() == before


def test_a_window_with_few_rows_is_joined_to_the_next(repository):
    log = Log(repository)
    for number, count in enumerate((60, 60, 120, 300)):
        log.hour(number, rows(count, number))
    ran = monitoring(repository).run(LATER)
    hour = timedelta(hours=1)
    assert [(one.start - START, one.end - START, one.rows) for one in ran.judged] == [
        (0 * hour, 3 * hour, 240),
        (3 * hour, 4 * hour, 300),
    ]


def test_what_is_still_being_written_is_not_judged(repository):
    log = Log(repository)
    log.hour(0, rows(ROWS, 0))
    log.hour(1, rows(ROWS, 1))
    ran = monitoring(repository).run(START + timedelta(hours=2, minutes=4))
    assert [one.start for one in ran.judged] == [START]
    later = monitoring(repository).run(START + timedelta(hours=2, minutes=6))
    assert [one.start for one in later.judged] == [START + timedelta(hours=1)]


def test_truth_that_comes_late_judges_the_window_again(repository):
    log = Log(repository)
    frames = {number: rows(ROWS, number) for number in range(3)}
    for number, frame in frames.items():
        log.hour(number, frame)
    first = monitoring(repository).run(LATER)
    assert [one.truths for one in first.judged] == [0, 0, 0]
    assert all("roc_auc" not in one.metrics for one in first.judged)

    other = pl.when(pl.col("answer") == "yes").then(pl.lit("no")).otherwise(pl.lit("yes"))
    log.truths(1, frames[1].with_columns(other.alias("answer")))
    again = monitoring(repository).run(LATER)
    (window,) = again.judged
    assert (window.start - START, window.truths) == (timedelta(hours=1), ROWS)
    assert [cause.name for cause in window.causes] == ["performance"]
    assert window.metrics["roc_auc"] < 0.3


def test_answers_that_the_artefact_does_not_give_are_skew(repository):
    log = Log(repository)
    frame = rows(ROWS, 0)
    given = log.model.predict(frame.drop("answer"))
    log.hour(0, frame, answers=given.with_columns(pl.col("probability").reverse()))
    (window,) = monitoring(repository).run(LATER).judged
    assert window.causes[0].name == "skew"
    assert window.causes[0].severity == "critical"


def test_errors_and_truth_that_stays_away(repository):
    log = Log(repository)
    log.hour(0, rows(ROWS, 0))
    log.hour(1, rows(ROWS, 1), status="timeout")
    ran = monitoring(repository, "+service.truth_after=24").run(LATER)
    assert [[cause.name for cause in one.causes] for one in ran.judged] == [["truth"], ["service"]]
    assert "timeout" in ran.judged[1].causes[0].headline


def test_a_muted_cause_is_told_when_the_mute_runs_out(repository):
    log = Log(repository)
    for number in range(2):
        log.hour(number, broken(rows(ROWS, number)))
    one = monitoring(repository)
    one.history.mute(Mute(cause="inputs", until=LATER + timedelta(hours=1), why="known", by="me"))
    assert one.run(LATER).change.raised == []
    assert [alert.cause for alert in one.run(LATER + timedelta(hours=2)).change.raised] == ["inputs"]


def test_the_page_names_no_address_and_says_what_is_wrong(repository):
    log = Log(repository)
    for number in range(3):
        log.hour(number, broken(rows(ROWS, number)) if number == 2 else rows(ROWS, number))
    one = monitoring(repository)
    one.run(LATER)
    page = monitor_page("toy", one.view, one.history.windows(), {}, LATER)
    assert "1 thing is to be looked into" in page
    assert "0.001 times as large" in page
    assert not re.search(r"https?://", page)
    assert page.count("<svg") > 5


def test_a_reference_from_the_log(repository):
    log = Log(repository)
    for number in range(6):
        log.hour(number, rows(ROWS, number) if number < 5 else broken(rows(ROWS, number)))
        log.truths(number, rows(ROWS, number))
    (repository / "conf/monitor/toy.yaml").write_text(
        "model: toy\nlimits: {resamples: 200}\n"
        f"reference: {{kind: log, since: '{START.isoformat()}', until: '{(START + timedelta(hours=4)).isoformat()}'}}\n"
    )
    ran = monitoring(repository).run(LATER, since=START + timedelta(hours=4))
    assert [bool(one.causes) for one in ran.judged] == [False, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reference: {kind: table, path: data/none.parquet}\n", r"data/none\.parquet: there is no such file"),
        ("reference: {kind: table, path: x.parquet}\nlimit: {}\n", r"conf/monitor/toy\.yaml"),
    ],
)
def test_mistakes_are_named(repository, text, said):
    (repository / "conf/monitor/toy.yaml").write_text(f"model: toy\n{text}")
    Log(repository).hour(0, rows(ROWS, 0))
    with pytest.raises(PenstockError, match=said):
        monitoring(repository).run(LATER)


@contextmanager
def alertmanager(folder: Path) -> Iterator[str]:
    port = free_port()
    (folder / "alertmanager.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    command = [
        program("prometheus-alertmanager", package="prometheus-alertmanager"),
        f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alerts",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=1) as response:
                return response.status == 200
        except OSError:
            return False

    try:
        until(answers, "alertmanager", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def test_an_alertmanager_holds_one_alert_a_cause_until_it_is_over(repository, tmp_path_factory):
    log = Log(repository)
    for number in range(3):
        log.hour(number, broken(rows(ROWS, number).with_columns(pl.lit("gold").alias("plan"))))
    with alertmanager(tmp_path_factory.mktemp("alertmanager")) as url:
        receiver = f"alerting.receivers=[{{url: '{url}/api/v2/alerts'}}]"

        def held() -> list[dict[str, str]]:
            with urllib.request.urlopen(f"{url}/api/v2/alerts?active=true") as response:
                return [alert["labels"] for alert in json.load(response)]

        monitoring(repository, f"+{receiver}").run(LATER)
        labels = {"alertname": "monitor_inputs", "cause": "inputs", "monitor": "toy", "severity": "critical"}
        assert held() == [labels]
        for number in (3, 4):
            log.hour(number, rows(ROWS, number))
        monitoring(repository, f"+{receiver}").run(LATER)
        until(lambda: held() == [], "alertmanager")


def test_a_receiver_that_is_away_is_told_with_the_next_run(repository):
    log = Log(repository)
    for number in range(2):
        log.hour(number, broken(rows(ROWS, number)))
    one = monitoring(repository, f"+alerting.receivers=[{{url: 'http://127.0.0.1:{free_port()}'}}]")
    with pytest.raises(PenstockError, match=r"alerting\.receivers\[0\]: alerts cannot be posted"):
        one.run(LATER)
    assert len(one.history.windows()) == 2
    assert [alert.cause for alert in monitoring(repository).run(LATER).change.raised] == ["inputs"]


def test_prometheus_takes_the_figures(repository):
    log = Log(repository)
    for number in range(2):
        log.hour(number, broken(rows(ROWS, number)))
    one = monitoring(repository)
    one.run(LATER)
    text = exposition(repository, {"toy": one.view.alerting})
    promtool = program("promtool", package="prometheus")
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert b'penstock_monitor_alert{cause="inputs",monitor="toy",severity="critical"} 1.0' in text
    assert b'penstock_monitor_psi{column="income",monitor="toy"}' in text


def test_the_rules_say_what_they_should():
    rules = Path(__file__).parents[3] / "deploy/prometheus/tests/monitoring.test.yaml"
    tested = subprocess.run(
        [program("promtool", package="prometheus"), "test", "rules", rules], capture_output=True, check=False
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_exit_code_tells_a_scheduler(repository):
    log = Log(repository)
    log.hour(0, rows(ROWS, 0))

    def code(*arguments: str) -> int:
        return CliRunner().invoke(app, ["monitor", *arguments]).exit_code

    assert code("status", "toy") == 3
    assert code("run", "toy") == 0
    assert code("status", "toy") == 0
    for number in (1, 2):
        log.hour(number, broken(rows(ROWS, number)))
    assert code("run", "toy") == 0
    assert code("status", "toy") == 1
    assert code("mute", "toy", "inputs", "--for", "2d") == 0
    assert code("status", "toy") == 0
    assert code("report", "toy") == 0
    assert (repository / "reports/monitor/toy.html").is_file()


def test_a_season_is_compared_with_its_like(repository):
    """Old people ask by night and young ones by day; then, one day, the other way round."""
    log = Log(repository)

    def asked(number: int, *, old: bool) -> None:
        people = rows(1200, number).filter((pl.col("age") > 54) == old)[:ROWS]
        log.hour(number, people)

    for number in (0, 1, 24, 25):
        asked(number, old=number % 2 == 0)
    asked(48, old=False)
    end = START + timedelta(hours=2)
    (repository / "conf/monitor/toy.yaml").write_text(
        "model: toy\nlimits: {resamples: 200}\nseason: hour_of_day\n"
        f"reference: {{kind: log, since: '{START.isoformat()}', until: '{end.isoformat()}'}}\n"
    )
    later = START + timedelta(days=4)
    ran = monitoring(repository).run(later, since=START + timedelta(hours=24))
    assert [[cause.name for cause in one.causes] for one in ran.judged] == [[], [], ["inputs"]]


ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "conf/monitor").glob("*.yaml"))])
def test_what_comes_with_the_repository_is_valid(name):
    assert declared(name, [], ROOT).model == name


@pytest.mark.parametrize("name", [path.stem for path in sorted((ROOT / "conf/maintenance").glob("*.yaml"))])
def test_so_are_the_policies(name):
    policy = maintenance.declared(name, root=ROOT)
    assert policy.monitor in [path.stem for path in (ROOT / "conf/monitor").glob("*.yaml")]


def test_a_column_that_may_be_empty_and_is_missing_more_often_is_not_called_absent(repository):
    """Its type in the log is none at all then."""
    log = Log(repository)
    log.hour(0, rows(ROWS, 0).with_columns(pl.lit(None, pl.Float64).alias("income")))
    (window,) = monitoring(repository).run(LATER).judged
    assert any("`income` is missing in every row" in finding.words for finding in window.findings)
    assert not any("is not sent" in finding.words for finding in window.findings)
