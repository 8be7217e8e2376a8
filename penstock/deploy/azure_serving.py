"""What serves on Azure: artefact and image registered, an endpoint, two colours, what lets them grow, and who is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from penstock.deploy import azure_resources as wanted
from penstock.deploy.azure_artefact import Artefact
from penstock.deploy.azure_resources import COLOURS, VERSIONS, Colour, Foundation
from penstock.deploy.azure_standing import (
    DEPLOYED,
    DEPLOYING,
    SINCE_TAG,
    STAGE_TAG,
    Cloud,
    found_endpoint,
    is_moving,
    is_stuck,
    other,
    put_shares,
    settle,
    shares_of,
    stamped,
    standing,
)
from penstock.deploy.azure_steps import Change, Step
from penstock.errors import PenstockError

__all__ = ["Serving"]


class Serving:
    """Artefact and image registered, an endpoint, and the colour that has them."""

    def __init__(self, cloud: Cloud, artefact: Artefact, image: str) -> None:
        self.cloud = cloud
        self.artefact = artefact
        self.image = image
        self.image_version = image.rpartition(":")[2][:12]
        self._chosen: Colour | None = None

    def steps(self) -> list[Step]:
        """In order."""
        return [
            self._put(
                f"model version {self.artefact.version}",
                lambda made: self.cloud.ids.model(made, self.artefact.version),
                lambda made: wanted.model_version(self.cloud.view, self._uri(made), self.artefact.sha256),
            ),
            self._put(
                f"image version {self.image_version}",
                lambda made: self.cloud.ids.environment(made, self.image_version),
                lambda _: wanted.environment_version(self.cloud.view, self.image),
            ),
            self._endpoint(),
            self._colour(),
            self._noted(),
            self._first_traffic(),
            self._autoscale(),
            *(self._alert(name) for name in ("slow", "failing")),
        ]

    def _uri(self, made: Foundation) -> str:
        account = self.cloud.view.storage or f"https://{made.storage}.blob.core.windows.net"
        return f"{account}/{made.container}/{self.artefact.prefix}"

    def _put(
        self,
        what: str,
        path: Callable[[Foundation], str],
        body: Callable[[Foundation], dict[str, Any]],
        version: str = VERSIONS["ml"],
    ) -> Step:
        def look() -> Change | None:
            made = self.cloud.foundation()
            found = self.cloud.arm.find(path(made), version)
            if found is None:
                return Change(what, "create")
            other = wanted.differs(body(made), found.body)
            return Change(what, "change", other) if other else None

        def do() -> None:
            made = self.cloud.foundation()
            self.cloud.arm.put(path(made), version, body(made))

        return Step(what, look, do)

    def _endpoint(self) -> Step:
        what = f"endpoint {self.cloud.view.endpoint}"

        def body(present: Mapping[str, Any] | None) -> dict[str, Any]:
            shares = shares_of(present)
            tags = (present or {}).get("tags") or {}
            return wanted.endpoint(
                self.cloud.view, self.cloud.foundation(), shares.traffic, shares.mirror, tags
            )

        def look() -> Change | None:
            present = found_endpoint(self.cloud)
            if present is None:
                return Change(what, "create")
            if is_moving(present.body):
                return Change(what, "change", "an operation is under way, which is waited for")
            if is_stuck(present.body):
                return Change(what, "change", "has failed before")
            other = wanted.differs(body(present.body), present.body)
            return Change(what, "change", other) if other else None

        def do() -> None:
            path = self.cloud.ids.endpoint(self.cloud.foundation())
            settle(self.cloud, path, VERSIONS["ml"])
            present = found_endpoint(self.cloud)
            self.cloud.arm.put(
                path,
                VERSIONS["ml"],
                body(present.body if present else None),
                etag=present.etag if present else None,
            )

        return Step(what, look, do)

    def _body(self, made: Foundation, capacity: int | None) -> dict[str, Any]:
        return wanted.deployment(
            self.cloud.view,
            model=self.cloud.ids.model(made, self.artefact.version),
            environment=self.cloud.ids.environment(made, self.image_version),
            version=self.artefact.version,
            folder=self.artefact.prefix.rpartition("/")[2],
            capacity=capacity,
        )

    def _target(self) -> Colour:
        """Which colour is to have this artefact and image: the one that has them, or else the one that answers nobody.

        Raises:
            PenstockError: Neither, as another promotion is under way.
        """
        if self._chosen is not None:
            return self._chosen
        now = standing(self.cloud)
        ours = (self.artefact.version, self.image_version)
        having = [c for c in COLOURS if now.colours[c] is not None and now.holds(c) == ours]
        if now.live is not None and now.live in having:
            return now.live
        if having:
            return having[0]
        if now.live is None:
            return "blue"
        if now.stage in ("mirror", "canary"):
            raise PenstockError(
                f"a promotion of {now.version(now.challenger)} is under way ({now.stage}); {self.artefact.version} would replace it",
                hint="end it first: `penstock deploy azure promote`, or `rollback`",
            )
        return other(now.live)

    def _colour(self) -> Step:
        def found(colour: Colour) -> Mapping[str, Any] | None:
            answer = self.cloud.arm.find(
                self.cloud.ids.colour(self.cloud.foundation(), colour), VERSIONS["ml"]
            )
            return answer.body if answer else None

        def look() -> Change | None:
            colour = self._chosen = self._target()
            present = found(colour)
            what = f"deployment {colour}"
            if present is None:
                return Change(what, "create", self.artefact.version)
            if is_moving(present):
                return Change(what, "change", "an operation is under way, which is waited for")
            if is_stuck(present):
                return Change(what, "change", "has failed before")
            capacity = (present.get("sku") or {}).get("capacity")
            other = wanted.differs(self._body(self.cloud.foundation(), capacity), present)
            return Change(what, "change", other) if other else None

        def do() -> None:
            made, colour = self.cloud.foundation(), self._chosen or self._target()
            path = self.cloud.ids.colour(made, colour)
            settle(self.cloud, path, VERSIONS["ml"])
            present = found(colour)
            capacity = (present.get("sku") or {}).get("capacity") if present else None
            body = self._body(made, capacity)
            if present is not None and not is_stuck(present) and not wanted.differs(body, present):
                return
            now = standing(self.cloud)
            if now.live is not None and colour != now.live:
                # From here on nobody goes back to that colour, nor is what was in it promoted.
                put_shares(
                    self.cloud, {now.live: 100}, {}, {STAGE_TAG: DEPLOYING, SINCE_TAG: stamped(self.cloud)}
                )
            self.cloud.arm.put(path, VERSIONS["ml"], body)

        return Step("deployment blue", look, do)

    def _noted(self) -> Step:
        """That the challenger is there whole, which may now be promoted."""
        what = "challenger"

        def look() -> Change | None:
            now, colour = standing(self.cloud), self._target()
            due = now.live is not None and colour != now.live and now.stage == DEPLOYING
            return (
                Change(what, "change", f"{self.artefact.version} ({colour}) may be promoted") if due else None
            )

        def do() -> None:
            now = standing(self.cloud)
            put_shares(self.cloud, now.traffic, {}, {STAGE_TAG: DEPLOYED, SINCE_TAG: stamped(self.cloud)})

        return Step(what, look, do, at_first=False)

    def _first_traffic(self) -> Step:
        """Where nothing answers yet there is nothing to compare with."""

        def look() -> Change | None:
            return (
                Change(f"traffic: all to {self._target()}", "change")
                if standing(self.cloud).live is None
                else None
            )

        def do() -> None:
            put_shares(
                self.cloud, {self._target(): 100}, {}, {STAGE_TAG: "full", SINCE_TAG: stamped(self.cloud)}
            )

        return Step("traffic: all to blue", look, do)

    def _autoscale(self) -> Step:
        version = VERSIONS["autoscale"]

        def bodies() -> dict[Colour, dict[str, Any]]:
            made = self.cloud.foundation()
            now = standing(self.cloud)
            return {
                colour: wanted.autoscale(self.cloud.view, self.cloud.ids.colour(made, colour), colour)
                for colour in COLOURS
                if now.colours[colour] is not None
            }

        def differing() -> dict[Colour, str]:
            found: dict[Colour, str] = {}
            for colour, body in bodies().items():
                present = self.cloud.arm.find(self.cloud.ids.autoscale(colour), version)
                other = wanted.differs(body, present.body) if present else "is not there"
                if other:
                    found[colour] = other
            return found

        def look() -> Change | None:
            found = differing()
            if not found:
                return None
            new = "is not there" in found.values()
            return Change(
                "autoscale", "create" if new else "change", ", ".join(f"{c}: {w}" for c, w in found.items())
            )

        def do() -> None:
            whole = bodies()
            for colour in differing():
                self.cloud.arm.put(self.cloud.ids.autoscale(colour), version, whole[colour])

        return Step("autoscale", look, do)

    def _alert(self, name: str) -> Step:
        def body(made: Foundation) -> dict[str, Any]:
            return wanted.alerts(self.cloud.view, self.cloud.ids.endpoint(made), made.actions)[name]

        return self._put(f"alert {name}", lambda _: self.cloud.ids.alert(name), body, VERSIONS["alert"])
