"""Kibana: data views, a dashboard and alert rules, brought there as they lie in deploy/kibana/.

Data views and dashboard are saved objects, which Kibana imports from a file. Rules are not: each is made by the alerting API
under an id that is always the same, so that doing it again changes nothing.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import os
import re
import secrets
import ssl
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.config.streaming import ElasticsearchStore, Stream
from penstock.console import say
from penstock.errors import PenstockError
from penstock.sources.secrets import hidden, revealed

__all__ = ["OBJECTS", "RULES", "Kibana", "bring", "objects", "rules"]

OBJECTS = Path("deploy/kibana/stream.ndjson")
RULES = Path("deploy/kibana/rules.json")
OLDEST = (8, 9)  # it does not take objects of a later version than its own
LATER = {429, 502, 503, 504}
FIRST, MOST = 0.5, 5.0  # seconds until the next try; doubles
ANSWER = 60.0  # seconds
# What a rule is made with, and what it keeps when it is updated.
ONCE = {"rule_type_id", "consumer", "enabled"}


@dataclass(frozen=True)
class Answer:
    """What Kibana answered."""

    status: int
    body: Any


class Kibana:
    """A Kibana, asked over HTTP.

    Credentials are in the environment: KIBANA_API_KEY, or KIBANA_USER and KIBANA_PASSWORD.

    Args:
        url: https://host:5601, with the path that it lies under, if any.
        space: Of Kibana; None for the default one.
        ca: A file of certificates.
        wait: Seconds that it may take to come up, or to have time.
        sleep: Waits.

    Raises:
        PenstockError: The address is none.
    """

    def __init__(
        self,
        url: str,
        *,
        space: str | None = None,
        ca: Path | None = None,
        wait: float = 60.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._parts = urllib.parse.urlsplit(url)
        try:
            port = self._parts.port
        except ValueError:
            port = -1
        if self._parts.scheme not in {"http", "https"} or not self._parts.hostname or port == -1:
            raise PenstockError(
                f"--url: {hidden(url)!r}: expected http://host:5601", hint="as in the browser"
            )
        if self._parts.username is not None:
            raise PenstockError(
                "--url: credentials do not belong in an address, where others see them",
                hint="export KIBANA_API_KEY=…, or KIBANA_USER and KIBANA_PASSWORD",
            )
        self.url = url.rstrip("/")
        self.wait, self._sleep = wait, sleep
        # Of a space everything lies under its name.
        self._space = "" if space is None else f"/s/{urllib.parse.quote(space, safe='')}"
        self._credentials = _credentials()
        self._tls = None
        if self._parts.scheme == "https":
            try:
                self._tls = ssl.create_default_context(cafile=ca)
            except OSError as error:
                raise PenstockError(f"--ca: {ca}: {error.strerror or error}", hint="a file, PEM") from error
        elif self._credentials and not _local(self._parts.hostname):
            say(f"warning: credentials travel in the clear to {self._parts.hostname}; use https")

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> Answer:
        """An answer, whatever its status, but those that say to come again.

        Raises:
            PenstockError: There is none, it is no Kibana, or the credentials are not taken.
        """
        ends, pause = time.monotonic() + self.wait, FIRST
        while True:
            found: Answer | None
            try:
                found = self._once(method, path, body, kind)
            except ssl.SSLCertVerificationError as error:
                raise PenstockError(
                    f"{self.url}: its certificate is not trusted: {error.verify_message}",
                    hint="name the authority that signed it: --ca FILE",
                ) from error
            except (OSError, http.client.HTTPException) as error:
                found, why = None, str(error) or type(error).__name__
            else:
                why = f"it answers with {found.status}"
                if found.status not in LATER:
                    return self._known(found, path)
            if time.monotonic() + pause > ends:
                raise PenstockError(
                    f"{self.url}: Kibana does not answer: {hidden(why)}",
                    hint="is it up, and is this its address? --wait SECONDS waits longer",
                )
            self._sleep(pause)
            pause = min(MOST, pause * 2)

    def _once(self, method: str, path: str, body: bytes | None, kind: str) -> Answer:
        host, port = self._parts.hostname or "", self._parts.port
        connection = (
            http.client.HTTPConnection(host, port, timeout=ANSWER)
            if self._tls is None
            else http.client.HTTPSConnection(host, port, timeout=ANSWER, context=self._tls)
        )
        headers = {"kbn-xsrf": "penstock", "accept": "application/json", **self._credentials}
        if body is not None:
            headers["content-type"] = kind
        try:
            connection.request(
                method, f"{self._parts.path.rstrip('/')}{self._space}{path}", body=body, headers=headers
            )
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        try:
            told = json.loads(text)
        except ValueError:
            told = None
        return Answer(response.status, told)

    def _known(self, found: Answer, path: str) -> Answer:
        if found.status == 401:
            raise PenstockError(
                f"{self.url}: Kibana does not know who asks (401)",
                hint="export KIBANA_API_KEY=…, or KIBANA_USER and KIBANA_PASSWORD",
            )
        if found.status == 403:
            raise PenstockError(
                f"{self.url}: whose credentials these are may not do this: {path} (403)",
                hint="they need all rights on data views, dashboards, visualizations and stack rules of the space",
            )
        if 300 <= found.status < 400 or not isinstance(found.body, dict):
            raise PenstockError(
                f"{self.url}: this is not Kibana's API ({path} is answered with {found.status})",
                hint="give the address of Kibana itself, with its base path if it has one",
            )
        return found

    @property
    def dashboards(self) -> str:
        """Where a person looks at them."""
        return f"{self.url}{self._space}/app/dashboards"

    def version(self) -> str:
        """Its version.

        Raises:
            PenstockError: It does not tell it.
        """
        answer = self.ask("GET", "/api/status")
        number = (answer.body.get("version") or {}).get("number")
        if not isinstance(number, str):
            raise PenstockError(
                f"{self.url}: /api/status does not tell a version (status {answer.status})",
                hint="give the address of Kibana itself, with its base path if it has one",
            )
        return number

    def load(self, lines: bytes) -> int:
        """Import saved objects in the place of those that are there; how many.

        Args:
            lines: NDJSON.

        Raises:
            PenstockError: Some or all are refused. Kibana has then imported the others.
        """
        edge = secrets.token_hex(16)
        head = (
            f'--{edge}\r\ncontent-disposition: form-data; name="file"; filename="stream.ndjson"\r\n'
            "content-type: application/ndjson\r\n\r\n"
        )
        body = head.encode() + lines + f"\r\n--{edge}--\r\n".encode()
        answer = self.ask(
            "POST", "/api/saved_objects/_import?overwrite=true", body, f"multipart/form-data; boundary={edge}"
        )
        if answer.status != 200:
            raise PenstockError(
                f"Kibana refuses the saved objects ({answer.status}): {_words(answer)}",
                hint=f"a Kibana takes objects of its own version and of earlier ones: {OBJECTS} is of 8.9",
            )
        # Partial failure is a 200 as well.
        if answer.body.get("success") is not True:
            wrong = [_failure(entry) for entry in answer.body.get("errors") or []]
            raise PenstockError(
                f"Kibana took {answer.body.get('successCount', 0)} saved objects and refused {len(wrong)}:\n  "
                + "\n  ".join(wrong),
                hint="mend it in Kibana, and do it again: what is there is overwritten",
            )
        return int(answer.body["successCount"])

    def rule(self, ident: str, wanted: dict[str, Any]) -> str:
        """Make a rule, or bring the one that is there in line; which of them, in a word.

        Args:
            ident: Its id, a UUID.
            wanted: As the alerting API takes it.

        Raises:
            PenstockError: It is refused.
        """
        path = f"/api/alerting/rule/{ident}"
        for _ in range(3):  # 409: somebody else has just made or changed it
            there = self.ask("GET", path)
            if there.status == 404:
                done, answer = "made", self.ask("POST", path, json.dumps(wanted).encode())
            elif there.status == 200:
                if there.body.get("rule_type_id") != wanted["rule_type_id"]:
                    raise PenstockError(
                        f"rule {ident}: Kibana has one of another type there: {there.body.get('rule_type_id')}",
                        hint="delete it in Kibana",
                    )
                changed = {key: value for key, value in wanted.items() if key not in ONCE}
                # Whom it tells is chosen in Kibana, where connectors are, and stays.
                changed["actions"] = [_action(action) for action in there.body.get("actions") or []]
                done, answer = "as declared", self.ask("PUT", path, json.dumps(changed).encode())
            else:
                answer = there
            if answer.status == 200:
                return done
            if answer.status != 409:
                break
        raise PenstockError(
            f"rule {wanted['name']!r}: Kibana refuses it ({answer.status}): {_words(answer)}",
            hint="alerting needs xpack.encryptedSavedObjects.encryptionKey in kibana.yml, and the rights on stack rules",
        )


def _action(action: dict[str, Any]) -> dict[str, Any]:
    """As it is given back: what Kibana found out by itself is left out."""
    return {key: value for key, value in action.items() if key != "connector_type_id"}


def _credentials() -> dict[str, str]:
    if os.environ.get("KIBANA_API_KEY"):
        key = revealed("${secret:KIBANA_API_KEY}").strip()
        if not re.fullmatch(r"[A-Za-z0-9+/=_-]+", key):
            raise PenstockError(
                "KIBANA_API_KEY: this is no key of Kibana's",
                hint="it is what the page calls `encoded`, in base64",
            )
        return {"authorization": f"ApiKey {key}"}
    if os.environ.get("KIBANA_USER"):
        pair = f"{os.environ['KIBANA_USER']}:{revealed('${secret:KIBANA_PASSWORD}')}"
        return {"authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
    return {}


def _local(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def _words(answer: Answer) -> str:
    return hidden(str(answer.body.get("message") or answer.body.get("error") or "it does not say why"))[:500]


def _failure(entry: dict[str, Any]) -> str:
    error = entry.get("error") or {}
    told = [str(error.get("type", "unknown"))]
    if error.get("references"):
        told.append(", ".join(f"{part.get('type')} {part.get('id')}" for part in error["references"]))
    if error.get("message"):
        told.append(str(error["message"]))
    return f"{entry.get('type')} {entry.get('id')}: {': '.join(told)}"


# --- what is brought there --------------------------------------------------------------------------


def _patterns(store: ElasticsearchStore) -> dict[str, str]:
    return {"readings-*": f"{store.readings}-*", "windows-*": f"{store.windows}-*"}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise PenstockError(f"{path}: {error.strerror}", hint="run it in the repository") from error


def objects(store: ElasticsearchStore, root: Path = Path()) -> bytes:
    """The saved objects, with the names that the store's indices have; NDJSON.

    Raises:
        PenstockError: They cannot be read.
    """
    names, lines = _patterns(store), []
    for number, line in enumerate(_read(root / OBJECTS).splitlines(), 1):
        try:
            found = json.loads(line)
        except ValueError as error:
            raise PenstockError(
                f"{OBJECTS}, line {number}: {error}", hint="export it from Kibana again"
            ) from error
        if found.get("type") == "index-pattern":
            title = found["attributes"]["title"]
            found["attributes"]["title"] = names.get(title, title)
        lines.append(json.dumps(found, separators=(",", ":"), ensure_ascii=False))
    return ("\n".join(lines) + "\n").encode()


def rules(store: ElasticsearchStore, root: Path = Path()) -> dict[str, dict[str, Any]]:
    """The alert rules by id, with the names that the store's indices have.

    Raises:
        PenstockError: They cannot be read.
    """
    names, found = _patterns(store), {}
    for entry in json.loads(_read(root / RULES)):
        rule = entry["rule"]
        rule["params"]["index"] = [names.get(name, name) for name in rule["params"]["index"]]
        found[entry["id"]] = rule
    return found


def bring(view: Stream, kibana: Kibana, root: Path = Path()) -> list[str]:
    """Import data views, dashboard and rules; what was done, in words.

    Args:
        view: What is declared; its store is an Elasticsearch.
        kibana: Where to.
        root: The repository.

    Raises:
        PenstockError: There is nothing for Kibana to look at, or it does not take it.
    """
    if view.store.kind != "elasticsearch":
        raise PenstockError(
            f"Kibana looks into Elasticsearch, and the store is {view.store.kind}",
            hint="name a path with one: penstock stream kibana import cluster",
        )
    lines, wanted = objects(view.store, root), rules(view.store, root)
    version = kibana.version()
    numbers = tuple(int(part) for part in version.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        raise PenstockError(
            f"{kibana.url} is Kibana {version}, and takes no objects of a later version",
            hint=f"it needs {'.'.join(map(str, OLDEST))} or later",
        )
    done = [f"Kibana {version}: {kibana.load(lines)} saved objects, overwritten where they were"]
    done += [f"rule {rule['name']!r}: {kibana.rule(ident, rule)}" for ident, rule in wanted.items()]
    return done
