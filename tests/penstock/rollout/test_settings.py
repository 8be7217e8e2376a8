"""What cannot be honoured is refused when it is set; what can, follows from what was before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st

from penstock.config.rollout import Plan
from penstock.errors import PenstockError
from penstock.rollout import settings as rules
from penstock.rollout.decision import RefusedError, decide
from penstock.rollout.declared import check_artifacts, declared
from penstock.rollout.desk import Desk
from penstock.rollout.state import open_store
from tests.penstock.rollout.routers import declaration

ARMS = {arm: {"urls": [f"http://127.0.0.1:{port}"]} for port, arm in enumerate(("a", "b", "c"), 9001)}
AB = {
    "kind": "ab", "champion": "a", "shares": {"a": 0.5, "b": 0.5}, "without_user": "request",
    "baseline": 0.1, "effect": 0.02,
}  # fmt: skip
CANARY = {"kind": "canary", "champion": "a", "canary": "b", "steps": [1, 10, 50], "bake": "PT10M"}
BANDIT = {"kind": "bandit", "champion": "a", "candidates": ["a", "b"]}
CLICKS = {"source": "reward", "kind": "proportion"}
TWICE = {"a": {"artifact": "models/a", "replicas": 2}}


def plan(strategy, kpi=None, arms=None, **more):
    return rules.checked({"arms": arms or ARMS, "strategy": strategy, "kpi": kpi, **more})


@pytest.mark.parametrize(
    ("strategy", "kpi", "words"),
    [
        (AB | {"shares": {"a": 0.5, "b": 0.4}}, CLICKS, "add up to 0.9, not to 1"),
        (AB | {"shares": {"b": 0.5, "c": 0.5}}, CLICKS, "leave out the champion"),
        (AB | {"shares": {"a": 1.0}}, CLICKS, "compares two or more"),
        (AB | {"shares": {"a": 0.5, "z": 0.5}}, CLICKS, "there is no arm z"),
        (AB | {"shares": {"a": 1.2, "b": -0.2}}, CLICKS, "less than or equal to 1"),
        ({key: value for key, value in AB.items() if key != "without_user"}, CLICKS, "`without_user` says nothing"),
        (AB | {"unit": "request"}, CLICKS, "`without_user` is for unit: user"),
        (AB, None, "compares a `kpi`"),
        (AB | {"effect": 0}, CLICKS, "no number of users"),
        (AB | {"effect": -0.02}, CLICKS, "no improvement"),
        (AB | {"effect": 0.95}, CLICKS, "between 0 and 1"),
        (AB, {"source": "reward", "kind": "mean", "high": 100}, "`deviation` is missing"),
        (AB | {"deviation": 2}, CLICKS, "a proportion's follows from it"),
        ({"kind": "shadow", "champion": "a", "challengers": []}, None, "at least 1 item"),
        ({"kind": "shadow", "champion": "a"}, None, "challengers: Field required"),
        ({"kind": "shadow", "champion": "a", "challengers": ["a"]}, None, "not compared with itself"),
        ({"kind": "shadow", "champion": "a", "challengers": ["b"]}, CLICKS, "answers that somebody got"),
        (BANDIT, None, "learns from a reward"),
        (BANDIT | {"candidates": ["a"]}, CLICKS, "at least 2"),
        (BANDIT | {"candidates": ["b", "c"]}, CLICKS, "leave out the champion"),
        (BANDIT | {"floor": 0.5}, CLICKS, "leaves nothing to decide"),
        (BANDIT | {"policy": "linucb"}, CLICKS, "`context` is what policy: linucb decides by"),
        (BANDIT | {"context": {"x": {}}}, CLICKS, "for it alone"),
        (CANARY | {"steps": [1, 150]}, None, "less than or equal to 100"),
        (CANARY | {"steps": [10, 10]}, None, "`steps` must grow"),
        (CANARY | {"steps": []}, None, "at least 1 item"),
        (CANARY | {"bake": "PT0S"}, None, "`bake` must be more than 0"),
        (CANARY | {"unit": "user"}, None, "`without_user` says nothing"),
        (CANARY | {"canary": "z"}, None, "there is no arm z"),
        (CANARY | {"colour": "yellow"}, None, "colour: Extra inputs"),
        ({"kind": "blue_green", "live": "a", "idle": "a"}, None, "not compared with itself"),
        ({"kind": "blue_green", "live": "a"}, None, "idle: Field required"),
        ({"kind": "rolling", "champion": "a", "artifact": "models/x"}, None, "run elsewhere"),
        ({"kind": "single", "champion": "nobody"}, None, "there is no arm nobody"),
        ({"kind": "raffle", "champion": "a"}, None, "raffle"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused(strategy, kpi, words):
    with pytest.raises(PenstockError) as refused:
        plan(strategy, kpi)
    assert words in refused.value.message


def test_a_roll_needs_somebody_who_answers_meanwhile():
    one = {"a": {"artifact": "models/a"}}
    rolling = {"kind": "rolling", "champion": "a", "artifact": "models/b"}
    with pytest.raises(PenstockError, match="one replica"):
        plan(rolling, arms=one)
    assert plan(rolling, arms=TWICE).strategy.kind == "rolling"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"guardrails": {"within": "PT0.1S"}}, "cannot be kept"),
        ({"guardrails": {"kpi": 0.1}}, "no kpi to guard"),
        ({"state": {"kind": "redis"}, "attributions": 10}, "by time alone"),
        ({"salt": "x"}, "salt"),
        ({"router": {"timeouts": {"arm": "PT9S", "answer": "PT1S"}}}, "needs time to step in"),
    ],
)
def test_promises_that_cannot_be_kept_are_refused(tmp_path, more, words):
    with pytest.raises(ValueError, match=words):
        declaration(tmp_path, {"a": ["http://127.0.0.1:1"]}, {"kind": "single", "champion": "a"}, **more)


# --- artefacts --------------------------------------------------------------------------------------

CHURN = Path("models/churn")


def artifact(folder: Path, name: str, change=lambda _: None, content: bytes = b"model") -> str:
    """An artefact as far as a rollout looks: a manifest, and a file of its hash."""
    import hashlib

    column = {"type": "integer", "min": 0, "max": 9}
    manifest = {
        "format": 1, "name": name, "title": "", "task": "binary", "target": "y",
        "sha256": hashlib.sha256(content).hexdigest(), "opset": {},
        "inputs": [{"name": key, "element": "float", "column": column} for key in ("x", "z")],
        "outputs": [], "classes": ["no", "yes"], "positive": "yes", "threshold": 0.5, "metrics": {}, "parameters": {},
        "data_sha256": "", "code_sha256": "", "versions": {},
    }  # fmt: skip
    change(manifest)
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "manifest.json").write_text(json.dumps(manifest))
    (folder / name / "model.onnx").write_bytes(content)
    return name


def wider(manifest):
    manifest["inputs"][0]["column"] = {"type": "integer", "min": 0, "max": 5}


def fewer(manifest):
    manifest["inputs"].pop()


def more(manifest):
    manifest["inputs"].append({"name": "w", "element": "float", "column": {"type": "number"}})


def regression(manifest):
    manifest.update(task="regression", classes=None, positive=None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (wider, "column x: max is 5.0, not 9.0"),
        (fewer, "does not take the column z"),
        (more, "wants a column w"),
        (regression, "for regression, not binary"),
        (lambda m: m.update(classes=["no", "maybe"]), "classes are no, maybe"),
        (lambda m: m.update(positive="no"), "positive class is no"),
    ],
)
def test_an_artefact_that_cannot_stand_in_is_refused(tmp_path, change, words):
    artifact(tmp_path, "one")
    artifact(tmp_path, "two", change, b"other")
    arms = {"a": {"artifact": "one"}, "b": {"artifact": "two"}}
    with pytest.raises(PenstockError, match="cannot stand in for a") as refused:
        check_artifacts(plan({"kind": "shadow", "champion": "a", "challengers": ["b"]}, arms=arms), tmp_path)
    assert words in refused.value.message
    artifact(tmp_path, "two", content=b"other")
    check_artifacts(plan({"kind": "shadow", "champion": "a", "challengers": ["b"]}, arms=arms), tmp_path)


def test_an_artefact_that_is_not_what_its_manifest_says_is_refused(tmp_path):
    artifact(tmp_path, "one")
    artifact(tmp_path, "two", content=b"other")
    (tmp_path / "two/model.onnx").write_bytes(b"tampered")
    arms = {"a": {"artifact": "one", "replicas": 2}}
    with pytest.raises(PenstockError, match="does not match its manifest"):
        check_artifacts(plan({"kind": "rolling", "champion": "a", "artifact": "two"}, arms=arms), tmp_path)
    shutil.rmtree(tmp_path / "two")
    with pytest.raises(PenstockError, match="no such folder"):
        check_artifacts(plan({"kind": "rolling", "champion": "a", "artifact": "two"}, arms=arms), tmp_path)


# --- what follows from what -------------------------------------------------------------------------


def begun(strategy, kpi=None, arms=None):
    return rules.begun(plan(strategy, kpi, arms), "x")


def test_a_canary_steps_up_and_becomes_the_champion():
    settings = begun(CANARY)
    seen = [settings.shares()["b"]]
    for _ in range(2):
        settings = rules.promoted(settings)
        seen.append(settings.shares()["b"])
    assert seen == [0.01, 0.1, 0.5]
    assert settings.epoch == 1, "the same users stay in it"
    settings = rules.promoted(settings)
    assert settings.plan.strategy.kind == "single"
    assert (settings.champion, settings.version, settings.epoch) == ("b", 4, 2)
    assert rules.rolled_back(settings).champion == "a"


def test_a_canary_goes_back_and_does_not_come_again_by_itself():
    settings = rules.rolled_back(rules.promoted(begun(CANARY)))
    assert settings.shares() == {"a": 1.0}
    with pytest.raises(PenstockError, match="a answers alone"):
        rules.promoted(settings)


def test_blue_and_green_switch_there_and_back():
    settings = begun({"kind": "blue_green", "live": "a", "idle": "b"})
    there = rules.promoted(settings)
    assert there.shares() == {"b": 1.0}
    back = rules.rolled_back(there)
    assert back.shares() == {"a": 1.0}
    assert back.plan.strategy.kind == "blue_green"
    with pytest.raises(PenstockError, match="is live"):
        rules.promoted(settings, "a")


def test_an_arm_that_is_off_gets_nothing():
    settings = rules.without(begun(AB, CLICKS), "b", "harm")
    assert settings.shares() == {"a": 1.0}
    with pytest.raises(PenstockError, match="is off: harm"):
        rules.promoted(settings, "b")
    with pytest.raises(PenstockError, match="is the champion"):
        rules.without(settings, "a", "harm")


def test_of_several_one_must_be_named():
    three = begun(AB | {"shares": {"a": 0.4, "b": 0.3, "c": 0.3}}, CLICKS)
    with pytest.raises(PenstockError, match="which of b, c"):
        rules.promoted(three)
    assert rules.promoted(three, "c").champion == "c"
    with pytest.raises(PenstockError, match="no arm z"):
        rules.promoted(three, "z")


def test_settings_are_set_key_by_key_and_checked_whole():
    settings = begun({"kind": "single", "champion": "a"})
    found = rules.set_to(
        settings,
        [
            "strategy.kind=canary",
            "strategy.canary=b",
            "strategy.steps=[5, 50]",
            "strategy.bake=10m",
            "kpi.source=correct",
        ],
    )
    assert found.strategy.steps == (5.0, 50.0)
    assert found.kpi.source == "correct"
    then = rules.changed(settings, found)
    steeper = rules.set_to(then, ["strategy.steps=[5]"])
    assert (steeper.strategy.canary, steeper.strategy.steps) == ("b", (5.0,))
    for wrong, words in [
        (["strategy.kind=canary"], "canary: Field required"),
        (["strategy.stepz=[5]"], "stepz: Extra inputs"),
        (["strategy.kind"], "sets nothing"),
        (["arms.b.artifact=models/x"], "name either"),
        (["kpi=null", "strategy.kind=bandit", "strategy.candidates=[a,b]"], "learns from a reward"),
    ]:
        with pytest.raises(PenstockError) as refused:
            rules.set_to(settings, wrong)
        assert words in refused.value.message


def test_the_artefact_under_an_arm_that_answers_is_not_changed():
    settings = begun({"kind": "single", "champion": "a"})
    with pytest.raises(PenstockError, match=r"arms.a: answers requests"):
        rules.changed(settings, plan(settings.plan.strategy.model_dump(), arms=ARMS | {"a": ARMS["c"]}))
    with pytest.raises(PenstockError, match=r"taken away"):
        rules.changed(settings, plan({"kind": "single", "champion": "b"}, arms={"b": ARMS["b"]}))
    assert rules.changed(settings, plan(settings.plan.strategy.model_dump(), arms=ARMS | {"b": ARMS["c"]}))


def test_ports_stay_with_their_arms():
    arms = {name: {"artifact": f"models/{name}"} for name in ("a", "b", "c")}
    settings = begun({"kind": "single", "champion": "a"}, arms=arms)
    before = rules.addresses(settings, 8610)
    after = rules.changed(
        settings, plan({"kind": "single", "champion": "a"}, arms={k: arms[k] for k in "ac"})
    )
    assert rules.addresses(after, 8610)["c"] == before["c"]
    more = rules.changed(
        after, plan({"kind": "single", "champion": "a"}, arms=arms | {"d": {"artifact": "models/d"}})
    )
    found = rules.addresses(more, 8610)
    assert found["c"] == before["c"]
    assert len({url for urls in found.values() for url in urls}) == 4


@example_settings(max_examples=25, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=50, unique=True), st.integers(0, 1))
def test_who_is_in_a_canary_stays_in_it(users, step):
    settings = begun(CANARY | {"unit": "user", "without_user": "champion"})
    before = settings.model_copy(update={"step": step})
    after = rules.promoted(before)
    for user in users:
        if decide(before, "salt", "r", user).arm == "b":
            assert decide(after, "salt", "r", user).arm == "b"
        assert decide(before, "salt", "1", user) == decide(before, "salt", "2", user)


def test_the_next_experiment_shuffles_users_anew():
    settings = begun(AB, CLICKS)
    again = rules.changed(settings, plan(AB | {"effect": 0.01}, CLICKS))
    users = [str(user) for user in range(400)]
    same = sum(decide(settings, "s", "r", u).arm == decide(again, "s", "r", u).arm for u in users)
    assert 150 < same < 250
    with pytest.raises(RefusedError):
        decide(begun(AB | {"without_user": "refuse"}, CLICKS), "s", "r", None)


def test_what_the_repository_declares_can_be_served():
    for path in sorted(Path("conf/rollout").glob("*.yaml")):
        view = declared(path.stem)
        assert Plan.model_validate(view.plan().model_dump()) == view.plan()


def test_an_operator_is_told_what_cannot_be_kept(tmp_path):
    view = declaration(tmp_path, {"a": ["http://127.0.0.1:1"]}, {"kind": "single", "champion": "a"})
    store = open_store(view)
    desk = Desk(view, store)
    with pytest.raises(PenstockError, match="nothing is in force yet"):
        desk.pause("me", "")
    desk.begin()
    with pytest.raises(PenstockError, match="cannot be kept"):
        desk.set(["guardrails.within=PT0.1S"], "me", "")
    with pytest.raises(PenstockError, match="that is what is in force"):
        desk.set(["strategy.champion=a"], "me", "")
    with pytest.raises(PenstockError, match="there is no arm z"):
        desk.stop("z", "me", "")
    with pytest.raises(PenstockError, match="no file of flags is declared"):
        desk.flag("x", "on", "me", "")
    assert len(store.history()) == 1
    assert desk.set(["guardrails.alpha=0.05"], "me", "x" * 5000).version == 2
    assert len(store.history()[-1].why) == 1000
    two = {"a": ["http://127.0.0.1:1"], "b": ["http://127.0.0.1:2"]}
    again = Desk(declaration(tmp_path, two, {"kind": "single", "champion": "a"}), store)
    assert "penstock rollout apply" in again.begin()[1]
    again.apply("me", "")
    assert again.begin()[1] is None
    assert set(again.settings().plan.arms) == {"a", "b"}
    store.close()
