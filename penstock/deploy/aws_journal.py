"""The journal of releases: one object beside the artefacts, so that whoever comes next, on whichever machine, knows.

It is written before a step that changes something and after it. Each write asks that the object is still the one that was read:
of two who release at once, the slower one stops.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError

from penstock.config.base import View
from penstock.errors import PenstockError

__all__ = ["Journal", "Journalled", "Open", "Variant"]

Verb = Literal["apply", "promote", "rollback"]
KEPT = 20  # former champions


class Variant(View):
    """A model that answers, or has answered, or is tried.

    Attributes:
        version: First 12 hexadecimal digits of the model file's SHA-256.
        digest: SHA-256 of its archive.
        model: CreateModel, as it was or will be sent.
        config: The configuration in which it alone is in production; None before it was.
        since: When it came into the part that it has.
    """

    version: str
    digest: str
    model: dict[str, Any]
    config: str | None = None
    since: datetime | None = None

    @property
    def name(self) -> str:
        """Of the model."""
        return str(self.model["ModelName"])


class Open(View):
    """What was begun and has not ended.

    Attributes:
        verb: What was asked for.
        champion: Who is to answer when it is done.
        challenger: Who is to be tried then.
        step: The step that was last begun.
        config: The configuration that the endpoint was last told to take.
        seen: When the endpoint had last changed before it was told so.
    """

    verb: Verb
    champion: Variant
    challenger: Variant | None
    step: str = "begun"
    config: str | None = None
    seen: datetime | None = None


class Journal(View):
    """All that is known of an endpoint's releases."""

    format: Literal[1] = 1
    champion: Variant | None = None
    challenger: Variant | None = None
    former: tuple[Variant, ...] = ()  # the newest last
    open: Open | None = None


class Journalled:
    """The journal of one endpoint, read and written.

    Args:
        s3: boto3's client.
        bucket: Where it is.
        endpoint: Whose.
    """

    def __init__(self, s3: Any, bucket: str, endpoint: str) -> None:
        self._s3 = s3
        self.bucket = bucket
        self.key = f"releases/{endpoint}/journal.json"
        self._etag: str | None = None
        self.now = Journal()

    def read(self) -> Journal:
        """What it says.

        Raises:
            PenstockError: There is no bucket, or what is there is no journal.
        """
        from botocore.exceptions import ClientError

        try:
            found = self._s3.get_object(Bucket=self.bucket, Key=self.key)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "NoSuchBucket":
                raise PenstockError(
                    f"there is no bucket {self.bucket}",
                    hint="penstock deploy aws apply makes the infrastructure",
                ) from error
            if code != "NoSuchKey":
                raise
            self._etag, self.now = None, Journal()
            return self.now
        try:
            self.now = Journal.model_validate_json(found["Body"].read())
        except ValidationError as error:
            raise PenstockError(
                f"s3://{self.bucket}/{self.key}: not a journal of this version",
                hint="the bucket keeps its former versions; put the last good one back",
            ) from error
        self._etag = found["ETag"]
        return self.now

    def write(self, journal: Journal) -> Journal:
        """Replace it.

        Raises:
            PenstockError: Somebody else has written it meanwhile.
        """
        from botocore.exceptions import ClientError

        condition = {"IfNoneMatch": "*"} if self._etag is None else {"IfMatch": self._etag}
        body = journal.model_dump_json(indent=2).encode()
        try:
            done = self._s3.put_object(
                Bucket=self.bucket, Key=self.key, Body=body, ContentType="application/json", **condition
            )
        except ClientError as error:
            if error.response["Error"]["Code"] not in {"PreconditionFailed", "ConditionalRequestConflict"}:
                raise
            # A write whose answer was lost is sent again, and then finds itself there.
            if self.read() != journal:
                raise PenstockError(
                    f"s3://{self.bucket}/{self.key}: somebody else is releasing to this endpoint",
                    hint="see who: penstock deploy aws status",
                ) from error
            return journal
        self._etag, self.now = done["ETag"], journal
        return journal

    def step(self, name: str, **more: Any) -> None:
        """Note that a step begins."""
        if self.now.open is None:
            raise RuntimeError("a step of nothing")
        self.write(
            self.now.model_copy(update={"open": self.now.open.model_copy(update={"step": name, **more})})
        )

    def closed(self, *, champion: Variant, former: tuple[Variant, ...]) -> Journal:
        """Note that what was begun has ended as it should."""
        done, before = self.now.open, self.now
        if done is None:
            raise RuntimeError("nothing to close")
        return self.write(
            Journal(
                champion=_since(champion, before.champion),
                challenger=done.challenger and _since(done.challenger, before.challenger),
                former=former[-KEPT:],
            )
        )


def _since(variant: Variant, before: Variant | None) -> Variant:
    """The variant, with the time from which on it has had its part."""
    same = before is not None and before.name == variant.name
    since = before.since if same and before is not None else datetime.now(UTC)
    return variant.model_copy(update={"since": since})
