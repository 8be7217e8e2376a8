"""Flags: targeting, percentages, a kill switch, dormant versions; hot, and refused when they are none."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from penstock.errors import PenstockError
from penstock.rollout.desk import Desk
from penstock.rollout.flags import FileProvider, Flags, checked, read, switched
from tests.penstock.rollout.routers import declaration, plan, predictors, run, running, until

ON = {"state": "ENABLED", "variants": {"on": True, "off": False}, "defaultVariant": "on"}
ROUTE = {
    "state": "ENABLED",
    "variants": {"strategy": "strategy", "new": "b"},
    "defaultVariant": "strategy",
    "targeting": {
        "if": [
            {"in": [{"var": "targetingKey"}, ["ann", "bob"]]}, "new",
            {">": [{"var": "tenure"}, 50]}, "new",
            "strategy",
        ]
    },
}  # fmt: skip


def file(path, **flags):
    path.write_text(json.dumps({"flags": flags}))
    return path


def test_flags_send_requests_where_they_say_and_switch_all_off(tmp_path):
    async def test():
        path = file(tmp_path / "flags.json", route=ROUTE, predictions=ON)
        single = {"kind": "single", "champion": "a"}
        async with predictors("a", "b") as found:
            urls = {name: [one.url] for name, one in found.items()}
            view = declaration(tmp_path, urls, single, router={"flags": str(path)})
            async with running(view, flags=Flags(path, "m")) as it:

                async def arm(**asked):
                    return (await it.predict(**asked)).headers.get(b"x-arm")

                assert await arm(user="ann") == b"b", "a version that answers nobody else"
                assert await arm(user="cid") == b"a"
                assert await arm(user="cid", tenure=60) == b"b"
                # What was chosen is not mixed with what was drawn.
                assert "b" not in await it.counters()
                # The version fails: its users get the champion.
                found["b"].mood = "error"
                assert await arm(user="ann") == b"a"

                desk = Desk(view, it.store)
                entry = desk.flag("predictions", "off", "me", "all of them are wrong")
                assert (entry.what, entry.before["defaultVariant"], entry.after["defaultVariant"]) == (
                    "flag predictions", "on", "off",
                )  # fmt: skip
                await until(lambda: not it.router.flags.is_on("predictions", "u", default=True))
                answer = await it.predict()
                assert answer.status == 503
                assert b"switched off by a flag" in answer.body
                desk.flag("predictions", "on", "me", "mended")
                await until(lambda: it.router.flags.is_on("predictions", "u", default=True))
                assert (await it.predict()).status == 200

                # An arm that flags name cannot be taken away under them.
                with pytest.raises(PenstockError, match="there is no arm b"):
                    desk.set(["arms.b=null"], "me", "")
                await it.put(plan(strategy={"kind": "single", "champion": "b"}))
                assert await arm(user="cid") == b"b"

    run(test)


def test_a_percentage_is_of_users_and_stays_with_them(tmp_path):
    route = {
        "state": "ENABLED",
        "variants": {"old": "a", "new": "b"},
        "defaultVariant": "old",
        "targeting": {"fractional": [["old", 80], ["new", 20]]},
    }
    flags = Flags(file(tmp_path / "flags.json", route=route), "share")
    first = {str(user): flags.route(str(user)) for user in range(2000)}
    assert first == {user: flags.route(user) for user in first}
    assert 0.15 < Counter(first.values())["b"] / len(first) < 0.25


def test_a_file_that_breaks_leaves_in_force_what_was_read(tmp_path):
    path = file(tmp_path / "flags.json", gate=ON)
    provider = FileProvider(path)
    path.write_text("{")
    provider.look()
    assert "not JSON" in provider.refused
    assert provider.resolve_boolean_details("gate", False).value is True
    path.unlink()
    provider.look()
    assert provider.resolve_boolean_details("gate", False).value is True
    switched(file(path, gate=ON), "gate", "off")
    provider.look()
    assert provider.refused is None
    assert provider.resolve_boolean_details("gate", True).value is False


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (ON | {"state": "MAYBE"}, "state is ENABLED or DISABLED"),
        (ON | {"defaultVariant": "up"}, "'up' is none of its variants"),
        (ON | {"variants": {}}, "no variants"),
        (ON | {"variants": {"on": True, "off": 1}}, "different types"),
        (ON | {"target": {}}, "target is no key"),
        (ON | {"targeting": {"iff": [True, "on"]}}, "no operator iff"),
        (ON | {"targeting": {"fractional": [["on", 50], ["of", 50]]}}, "of is none of its variants"),
    ],
)
def test_what_is_no_flag_is_refused(tmp_path, flag, words):
    with pytest.raises(PenstockError) as refused:
        read(file(tmp_path / "flags.json", gate=flag))
    assert words in refused.value.message


def test_a_switch_that_does_not_exist_is_refused(tmp_path):
    path = file(tmp_path / "flags.json", gate=ON)
    with pytest.raises(PenstockError, match="no flag gait"):
        switched(path, "gait", "off")
    with pytest.raises(PenstockError, match="no variant of"):
        switched(path, "gate", "of")
    assert switched(path, "gate", "disabled")[1]["state"] == "DISABLED"
    assert checked({"flags": {"predictions": ROUTE}}) == "flags.predictions: its variants are true and false"
    assert checked({}) == "there is no object `flags`"


@pytest.mark.parametrize(
    "content",
    [{"flags": {}, "metadata": {"owner": None}}, {"flags": {"predictions": ON}, "$evaluators": ["x"]}],
)
def test_what_flagds_core_does_not_take_is_refused_and_the_next_file_is_looked_at(tmp_path, content):
    path = file(tmp_path / "flags.json", predictions=ON)
    flags = Flags(path, "refused")
    path.write_text(json.dumps(content))
    flags.provider.look()
    assert flags.provider.refused
    assert flags.is_on("predictions", "ann", default=False)
    file(path, predictions=ON | {"defaultVariant": "off"})
    flags.provider.look()
    assert flags.provider.refused is None
    assert not flags.is_on("predictions", "ann", default=True)


def test_what_is_the_same_for_everybody_changes_with_the_file(tmp_path):
    path = file(tmp_path / "flags.json", predictions=ON, route=ROUTE)
    flags = Flags(path, "same")
    assert flags.targets
    for variant in ("off", "on", "off"):
        file(path, predictions=ON | {"defaultVariant": variant}, route=ROUTE | {"targeting": {}})
        flags.provider.look()
        assert not flags.targets
        for _ in range(2):
            assert flags.is_on("predictions", "ann", default=True) is (variant == "on")
            assert flags.route("ann") is None
