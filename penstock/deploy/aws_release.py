"""Releases to an endpoint of SageMaker, by steps each of which looks before it does.

What a verb means is decided once and put into the journal; then it is carried out. A run that is killed at any moment is continued by
the same verb: what is there under its name is not made again, and an update that AWS has rolled back meanwhile is not begun again but
reported.

    apply      no champion: the artefact answers. A champion: the artefact becomes its challenger, in the shadow
    promote    the challenger answers, after a guarded shift of traffic
    rollback   the challenger goes; or, where there is none, the former champion answers again
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from penstock.config.deploying.aws import AllAtOnce, Aws
from penstock.console import say
from penstock.deploy import aws_requests as requests
from penstock.deploy.aws_artefact import Packed, pack
from penstock.deploy.aws_journal import Journal, Journalled, Open, Variant
from penstock.deploy.aws_requests import Names
from penstock.errors import PenstockError

__all__ = ["Clients", "Release", "connected"]

MOVING = frozenset({"Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"})
BACK = AllAtOnce(kind="all_at_once")  # the way back is not tried out in steps


@dataclass(frozen=True)
class Clients:
    """boto3's clients of what a release speaks to."""

    s3: Any
    sagemaker: Any
    scaling: Any
    cloudwatch: Any
    names: Names


def connected(view: Aws) -> Clients:
    """Clients for an account, found as AWS's own tools find it."""
    import boto3
    from botocore.config import Config

    session = boto3.Session(region_name=view.region)
    patient = Config(
        connect_timeout=10,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 6},
        tcp_keepalive=True,
    )
    identity = session.client("sts", config=patient).get_caller_identity()
    names = Names(view.name, identity["Account"], identity["Arn"].split(":")[1], view.region)
    return Clients(
        session.client("s3", config=patient),
        session.client("sagemaker", config=patient),
        session.client("application-autoscaling", config=patient),
        session.client("cloudwatch", config=patient),
        names,
    )


class Release:
    """Releases to one endpoint.

    Args:
        view: What is declared.
        clients: Of the account.
        pause: Seconds between looks at an endpoint that is changing.
    """

    def __init__(self, view: Aws, clients: Clients, *, pause: float = 15.0) -> None:
        self.view = view
        self.clients = clients
        self.names = clients.names
        self.pause = pause
        self.journal = Journalled(clients.s3, clients.names.bucket, view.name)

    def packed(self, root: Path) -> Packed:
        """The declared artefact, verified."""
        return pack(root / self.view.model, root / self.view.key if self.view.key else None)

    def _wanted(self, packed: Packed) -> Variant:
        if self.view.image is None:
            raise PenstockError("which image?", hint="image=REGISTRY/NAME@sha256:…, here or in conf/deploy/")
        request = requests.model_request(
            self.view, self.names, image=self.view.image, digest=packed.digest, version=packed.version
        )
        return Variant(version=packed.version, digest=packed.digest, model=request)

    def planned(self, root: Path) -> list[str]:
        """What `apply` would release, in lines."""
        now = self.journal.read() if self.has_bucket() else Journal()
        if now.open is not None:
            return [
                f"release: `{now.open.verb}` is half done, at step {now.open.step!r}; it would be continued"
            ]
        wanted = self._wanted(self.packed(root))
        if now.champion is None:
            return [f"release: {wanted.version} would be the champion, as model {wanted.name}"]
        if wanted.name in {now.champion.name, now.challenger.name if now.challenger else ""}:
            return [f"release: {wanted.version} is out; its endpoint would be brought in line if it is not"]
        gone = f", in place of {now.challenger.version}" if now.challenger else ""
        return [
            f"release: {wanted.version} would be the challenger of {now.champion.version}{gone}, as model {wanted.name}"
        ]

    def apply(self, root: Path) -> Journal:
        """Bring the declared artefact out: as champion if there is none, else as challenger.

        Args:
            root: The repository.

        Raises:
            PenstockError: The artefact is not to be trusted, another verb is half done, or AWS has refused or rolled back.
        """
        now = self.journal.read()
        if now.open is not None:
            self._same("apply")
            return self._carried_out()
        packed = self.packed(root)
        wanted = self._wanted(packed)
        self._uploaded(packed.digest, packed.content)
        if now.champion is None or now.champion.name == wanted.name:
            begun = Open(verb="apply", champion=wanted, challenger=now.challenger)
        else:
            begun = Open(verb="apply", champion=now.champion, challenger=wanted)
        if self._is_so(begun):
            say("nothing to release: the endpoint is as it is declared")
            self._scaled()  # both calls say what is to be, and change nothing where it is
            return now
        return self._begun(begun)

    def _is_so(self, begun: Open) -> bool:
        now = self.journal.now
        if now.champion is None or now.champion.name != begun.champion.name:
            return False
        if (now.challenger and now.challenger.name) != (begun.challenger and begun.challenger.name):
            return False
        described = self._described()
        return (
            described is not None
            and described["EndpointStatus"] == "InService"
            and described["EndpointConfigName"] == self._configured(begun)["EndpointConfigName"]
        )

    def promote(self, *, at_once: bool = False) -> Journal:
        """Let the challenger answer.

        Args:
            at_once: Without asking how long it has been in the shadow.

        Raises:
            PenstockError: There is none, it has not been tried for long enough, an alarm rings, or AWS has rolled back.
        """
        now = self.journal.read()
        if now.open is not None:
            self._same("promote")
            return self._carried_out()
        if now.challenger is None or now.champion is None:
            raise PenstockError(
                "there is no challenger", hint="penstock deploy aws apply brings one into the shadow"
            )
        if not at_once:
            self._tried(now.challenger)
        self._quiet()
        return self._begun(Open(verb="promote", champion=now.challenger, challenger=None))

    def rollback(self, *, unfinished: bool = False) -> Journal:
        """Take the challenger away, or bring the former champion back. What is half done is given up.

        Args:
            unfinished: Only that: where nothing is half done, nothing is done.

        Raises:
            PenstockError: There is nothing to go back to.
        """
        now = self.journal.read()
        if unfinished and now.open is None:
            say("nothing is half done")
            return now
        if now.open is not None and now.open.verb == "rollback":
            return self._carried_out()
        if now.champion is None and now.open is not None:
            say("the first release is given up, and what was made for it deleted")
            self.remove()
            return self.journal.now
        if now.champion is not None and (now.challenger is not None or now.open is not None):
            return self._begun(Open(verb="rollback", champion=now.champion, challenger=None))
        if now.former:
            return self._begun(Open(verb="rollback", champion=now.former[-1], challenger=None))
        raise PenstockError(
            "there is nothing to go back to", hint="penstock deploy aws status tells what there is"
        )

    def remove(self) -> None:
        """Delete endpoint, configurations and models of this name. Artefacts and journal stay."""
        client = self.clients.sagemaker
        if self._described() is not None:
            say(f"endpoint {self.view.name} is deleted")
            self._until(self._still, "settle")
            self._unscaled()
            client.delete_endpoint(EndpointName=self.view.name)
            self._until(lambda: self._described() is None, "be deleted")
        for kind, key in (("endpoint_config", "EndpointConfigName"), ("model", "ModelName")):
            # Names are made of sixteen hexadecimal digits: those of an endpoint `churn-calls` are not those of `churn`.
            for name in self._listed(kind, key):
                say(f"{name} is deleted")
                getattr(client, f"delete_{kind}")(**{key: name})
        if self.has_bucket():
            self.journal.read()
            self.journal.write(Journal())

    def has_bucket(self) -> bool:
        """Whether the bucket of artefacts is there."""
        return _found(self.clients.s3.head_bucket, {"Bucket": self.names.bucket}) is not None

    def has_artefacts(self) -> bool:
        """Whether the bucket would lose something with it."""
        return (
            self.has_bucket()
            and self.clients.s3.list_objects_v2(Bucket=self.names.bucket, MaxKeys=1)["KeyCount"] > 0
        )

    def _listed(self, kind: str, key: str) -> list[str]:
        pages = self.clients.sagemaker.get_paginator(f"list_{kind}s").paginate(
            NameContains=f"{self.view.name}-"
        )
        found = [str(item[key]) for page in pages for item in page[f"{key.removesuffix('Name')}s"]]
        return [name for name in found if re.fullmatch(rf"{re.escape(self.view.name)}-[0-9a-f]{{16}}", name)]

    def told(self) -> tuple[list[tuple[str, str]], list[str]]:
        """How it stands: lines of a label and words, and what is not well."""
        now, described = self.journal.now, self._described()
        lines: list[tuple[str, str]] = []
        wrong: list[str] = []
        status = "there is none" if described is None else str(described["EndpointStatus"])
        lines.append(("endpoint", f"{self.view.name} in {self.view.region}: {status}"))
        if now.champion is not None and status != "InService":
            wrong.append(
                f"the endpoint is to answer, and is {status}" if described else "the endpoint is gone"
            )
        for label, variant in (("champion", now.champion), ("challenger", now.challenger)):
            since = f", since {variant.since:%Y-%m-%d %H:%M} UTC" if variant and variant.since else ""
            lines.append((label, f"{variant.version} ({variant.name}){since}" if variant else "none"))
        lines.append(("former", ", ".join(variant.version for variant in reversed(now.former)) or "none"))
        lines += [
            ("instances", f"{variant.get('CurrentInstanceCount')} of {variant.get('DesiredInstanceCount')}")
            for variant in (described or {}).get("ProductionVariants", [])
        ]
        if now.open is not None:
            wrong.append(f"`{now.open.verb}` is half done, at step {now.open.step!r}")
        elif described is not None and now.champion is not None and now.challenger is None:
            has, wants = described["EndpointConfigName"], now.champion.config
            wrong += [f"the endpoint has configuration {has}, not {wants}"] if has != wants else []
        for name, state in self._alarms().items():
            lines.append(("alarm", f"{name}: {state}"))
            if state == "ALARM":
                wrong.append(f"alarm {name} rings")
        return lines, wrong

    def _alarms(self) -> dict[str, str]:
        wanted = [*self.names.rollback_alarms, self.names.shadow_alarm]
        found = self.clients.cloudwatch.describe_alarms(AlarmNames=wanted)["MetricAlarms"]
        return {str(item["AlarmName"]): str(item["StateValue"]) for item in found}

    # Deciding

    def _same(self, verb: Literal["apply", "promote"]) -> None:
        begun = self.journal.now.open
        assert begun is not None
        if begun.verb != verb:
            raise PenstockError(
                f"`{begun.verb}` is half done, at step {begun.step!r}",
                hint=f"penstock deploy aws {begun.verb} continues it, penstock deploy aws rollback gives it up",
            )
        say(f"{verb} is continued, from step {begun.step!r}")

    def _tried(self, challenger: Variant) -> None:
        tried = datetime.now(UTC) - (challenger.since or datetime.now(UTC))
        if tried < self.view.shadow.least:
            raise PenstockError(
                f"{challenger.version} has been in the shadow for {_spoken(tried.total_seconds())}, "
                f"of {_spoken(self.view.shadow.least.total_seconds())} asked for",
                hint="wait, or --now",
            )

    def _quiet(self) -> None:
        states = self._alarms()
        for name in (*self.names.rollback_alarms, self.names.shadow_alarm):
            if name not in states:  # nothing would roll back
                raise PenstockError(f"there is no alarm {name}", hint="penstock deploy aws apply makes it")
            if states[name] == "ALARM":
                raise PenstockError(f"alarm {name} rings", hint="find out why first, or rollback")

    def _begun(self, begun: Open) -> Journal:
        self.journal.write(self.journal.now.model_copy(update={"open": begun}))
        return self._carried_out()

    # Doing

    def _carried_out(self) -> Journal:
        """Bring the endpoint to what the open entry of the journal says, and close it."""
        before = self.journal.now
        begun = before.open
        assert begun is not None
        for variant in (begun.champion, begun.challenger):
            if variant is not None:
                self._made("model", {"ModelName": variant.name}, variant.model)
        bare = begun.champion.model_copy(update={"config": self._bare(begun)})
        if begun.challenger is None:
            config = str(bare.config)
        else:
            config = self._config(
                requests.config_request(self.view, begun.champion.name, begun.challenger.name)
            )
        answering = before.champion
        if answering is not None and answering.name != begun.champion.name and self._has_shadow():
            # A guarded update asks for the same variants before and after: the shadow goes first.
            self._moved(self._config(requests.config_request(self.view, answering.name, None)), "shadow off")
        self._moved(config, "traffic")
        self._scaled()
        former = before.former
        if answering is not None and answering.name != begun.champion.name:
            former = former[:-1] if begun.verb == "rollback" else (*former, answering)
        return self.journal.closed(champion=bare, former=former)

    def _configured(self, begun: Open) -> dict[str, Any]:
        challenger = begun.challenger.name if begun.challenger else None
        return requests.config_request(self.view, begun.champion.name, challenger)

    def _bare(self, begun: Open) -> str:
        """The configuration in which the champion is alone: on the way back the one that was good, with the instances of then."""
        if begun.verb == "rollback" and begun.champion.config is not None:
            return begun.champion.config
        return self._config(requests.config_request(self.view, begun.champion.name, None))

    def _has_shadow(self) -> bool:
        described = self._described()
        if described is None:
            return False
        found = self.clients.sagemaker.describe_endpoint_config(
            EndpointConfigName=described["EndpointConfigName"]
        )
        return bool(found.get("ShadowProductionVariants"))

    def _uploaded(self, digest: str, content: bytes) -> None:
        """Put an archive where its hash says, unless it is there."""
        from botocore.exceptions import ClientError

        place = {"Bucket": self.names.bucket, "Key": f"artefacts/{digest}/model.tar.gz"}
        try:
            found = self.clients.s3.head_object(**place)
            if found["ContentLength"] == len(content):
                return
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
        say(f"{len(content):,} bytes to s3://{place['Bucket']}/{place['Key']}")
        # S3 computes the hash itself and refuses what has changed on the way.
        self.clients.s3.put_object(
            **place, Body=content, ChecksumSHA256=base64.b64encode(bytes.fromhex(digest)).decode()
        )

    def _config(self, request: dict[str, Any]) -> str:
        name = str(request["EndpointConfigName"])
        self._made("endpoint_config", {"EndpointConfigName": name}, request)
        return name

    def _made(self, kind: str, place: dict[str, str], request: dict[str, Any]) -> None:
        """Make what cannot be changed and is named for what it is made of, unless it is there."""
        client = self.clients.sagemaker
        if _found(getattr(client, f"describe_{kind}"), place) is None:
            self.journal.step(f"{kind} {next(iter(place.values()))}")
            getattr(client, f"create_{kind}")(**request)

    def _moved(self, config: str, step: str) -> None:
        """Bring the endpoint to a configuration, and wait until it serves by it."""
        described = self._settled()
        client = self.clients.sagemaker
        if described is None:
            self.journal.step(f"endpoint {self.view.name}")
            say(f"endpoint {self.view.name} is made")
            tags = [{"Key": "managed-by", "Value": "penstock"}, {"Key": "project", "Value": self.view.name}]
            client.create_endpoint(EndpointName=self.view.name, EndpointConfigName=config, Tags=tags)
        elif described["EndpointConfigName"] != config:
            self._not_rolled_back(described, config)
            self.journal.step(f"{step}: {config}", config=config, seen=described["LastModifiedTime"])
            say(f"endpoint {self.view.name}: {step}, from {described['EndpointConfigName']} to {config}")
            client.update_endpoint(**requests.update_request(self.view, config, self._guarded(config)))
        else:
            return
        described = self._settled()
        assert described is not None
        self._not_rolled_back(described, config)

    def _guarded(self, config: str) -> dict[str, Any] | None:
        """How traffic moves; None where a shadow comes or goes, which a guarded update does not take."""
        found = self.clients.sagemaker.describe_endpoint_config(EndpointConfigName=config)
        if found.get("ShadowProductionVariants") or self._has_shadow():
            return None
        assert self.journal.now.open is not None
        policy = BACK if self.journal.now.open.verb == "rollback" else self.view.update
        return requests.deployment(policy, self.names.rollback_alarms)

    def _not_rolled_back(self, described: dict[str, Any], config: str) -> None:
        """Refuse to go on if the endpoint was told to take a configuration, has changed since, and does not have it."""
        begun = self.journal.now.open
        assert begun is not None
        if begun.config != config or described["EndpointConfigName"] == config:
            return
        # Its instances may also have been scaled in between: then this says too much, and `rollback` and once more is the way out.
        if begun.seen is not None and described["LastModifiedTime"] > begun.seen:
            why = described.get("FailureReason") or "an alarm rang, or the new instances did not come up"
            raise PenstockError(
                f"{begun.verb}: AWS has rolled back to {described['EndpointConfigName']}: {why}",
                hint="what answered before answers; penstock deploy aws rollback closes this attempt",
            )

    def _described(self) -> dict[str, Any] | None:
        return _found(self.clients.sagemaker.describe_endpoint, {"EndpointName": self.view.name})

    def _still(self) -> bool:
        described = self._described()
        return described is None or described["EndpointStatus"] not in MOVING

    def _settled(self) -> dict[str, Any] | None:
        """The endpoint when it is no longer changing; None if there is none.

        Raises:
            PenstockError: It has failed, or changes for too long.
        """
        self._until(self._still, "settle")
        last = self._described()
        if last is not None and last["EndpointStatus"] in {"Failed", "UpdateRollbackFailed", "OutOfService"}:
            raise PenstockError(
                f"endpoint {self.view.name} is {last['EndpointStatus']}: {last.get('FailureReason', 'AWS does not say why')}",
                hint=f"logs are in /aws/sagemaker/Endpoints/{self.view.name}; `destroy` and `apply` make it anew",
            )
        return last

    def _until(self, reached: Callable[[], bool], what: str) -> None:
        ends = time.monotonic() + self.view.patience.total_seconds()
        told = 0.0
        while not reached():
            now = time.monotonic()
            if now > ends:
                raise PenstockError(
                    f"endpoint {self.view.name} did not {what} in {_spoken(self.view.patience.total_seconds())}",
                    hint="the same command goes on waiting",
                )
            if now - told > 60:
                say(f"waiting for endpoint {self.view.name} to {what}")
                told = now
            time.sleep(self.pause)

    def _scaled(self) -> None:
        """Both calls replace what is there."""
        self.clients.scaling.register_scalable_target(**requests.target_request(self.view, self.names))
        self.clients.scaling.put_scaling_policy(**requests.policy_request(self.view, self.names))

    def _unscaled(self) -> None:
        target = requests.target_request(self.view, self.names)
        place = {key: target[key] for key in ("ServiceNamespace", "ResourceId", "ScalableDimension")}
        _found(self.clients.scaling.deregister_scalable_target, place)


def _found(describe: Callable[..., dict[str, Any]], place: dict[str, str]) -> dict[str, Any] | None:
    """What is said of something; None if it is not there, for which SageMaker has no code of its own."""
    from botocore.exceptions import ClientError

    try:
        return describe(**place)
    except ClientError as error:
        told = error.response["Error"]
        gone = any(words in told.get("Message", "") for words in ("Could not find", "No scalable target"))
        if gone or told["Code"] in {"404", "ResourceNotFound", "ObjectNotFoundException"}:
            return None
        raise


def _spoken(seconds: float) -> str:
    minutes = int(seconds) // 60
    return (
        f"{int(seconds)} s"
        if minutes < 1
        else f"{minutes} min"
        if minutes < 120
        else f"{minutes // 60} h {minutes % 60} min"
    )
