"""Azure Resource Manager over HTTP: requests that are tried again, operations that take their time, errors in words.

Written from the published guidelines: asynchronous operations (``Azure-AsyncOperation`` and ``Location`` headers, ``Retry-After``),
throttling (429), ``If-Match``. The resource providers' own client libraries would bring several hundred megabytes, and
versions that agree with nothing else here; a PUT of a JSON document does not need them.
"""

from __future__ import annotations

import email.utils
import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from penstock.errors import PenstockError

if TYPE_CHECKING:
    import httpx

__all__ = ["Answer", "Arm", "ArmError", "Credential", "Token"]

TRIES = 8
SLOWEST = 60.0  # seconds between two tries, whatever a server asks for
TIMEOUT = 60.0  # seconds for one request
TELL = 30.0  # seconds between two words on an operation that takes its time
EARLY = 300.0  # seconds before its end at which a token is renewed
BODY = 16 << 20  # bytes of an answer at most
Method = Literal["GET", "PUT", "POST", "DELETE"]
# What is said of each answer, and what to do about it.
WORDS = {
    400: ("Azure does not accept it", "mend the setting that is named"),
    401: (
        "Azure does not know who is asking",
        "log in (`az login`), or set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_FEDERATED_TOKEN_FILE or a secret",
    ),
    403: ("it is not allowed", "have the role that docs/azure.md names assigned to whoever deploys"),
    404: (
        "there is no such resource",
        "is the subscription right, and is the resource provider registered in it?",
    ),
    409: ("another operation is under way, or the name is taken", "wait for it to end and run it again"),
    412: (
        "it was changed by somebody else meanwhile",
        "look at it with `penstock deploy azure status`, and run it again",
    ),
    429: (
        "Azure asks to slow down, and went on asking",
        "wait some minutes and run it again: it goes on where it was",
    ),
}
CODES = {
    "QuotaExceeded": "ask for more cores of this kind in this region, or choose another instances.type",
    "OutOfQuota": "ask for more cores of this kind in this region, or choose another instances.type",
    "OutOfCapacity": "the region has no such machine left: choose another instances.type or location",
    "MissingSubscriptionRegistration": "register the resource provider that is named: `az provider register -n NAME`",
    "SubscriptionNotFound": "check subscription in the file, and that whoever deploys can see it",
    "InvalidAuthenticationToken": WORDS[401][1],
    "AuthorizationFailed": WORDS[403][1],
}


class Token(Protocol):
    """What a credential gives."""

    @property
    def token(self) -> str: ...

    @property
    def expires_on(self) -> int:
        """Seconds since 1970."""
        ...


class Credential(Protocol):
    """As those of azure-identity are."""

    def get_token(self, *scopes: str) -> Token: ...


class ArmError(PenstockError):
    """Azure has refused.

    Attributes:
        status: Of the answer; 0 where an operation failed after it was accepted.
        code: Azure's own word for it, such as QuotaExceeded.
    """

    def __init__(self, message: str, *, hint: str, status: int, code: str) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Answer:
    """What came back: status, headers with lower-case names, and the JSON document, if there was one."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def etag(self) -> str | None:
        """The version of the resource that was read, where its provider gives one."""
        tag = self.headers.get("etag")
        return tag or (self.body.get("etag") if isinstance(self.body, dict) else None)


class Arm:
    """A client of one Azure cloud.

    Args:
        url: Of Azure Resource Manager, such as ``https://management.azure.com``.
        credential: Gives tokens.
        patience: Seconds that one long-running operation may take.
        told: Is told, in words, of each wait that is longer than a moment.
        sleep: Waits; a test's own.
    """

    def __init__(
        self,
        url: str,
        credential: Credential,
        *,
        patience: float = 3600.0,
        told: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        import httpx

        self.url = url.rstrip("/")
        self._credential = credential
        self._patience = patience
        self._told = told
        self._sleep = sleep
        self._token: Token | None = None
        self._http = httpx.Client(
            timeout=TIMEOUT, follow_redirects=False, headers={"user-agent": "penstock-deploy"}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    # --- resources -------------------------------------------------------------------------------------

    def find(self, path: str, version: str) -> Answer | None:
        """A resource as it is, or None where there is none."""
        try:
            return self.send("GET", path, version)
        except ArmError as error:
            if error.status == 404 and error.code != "SubscriptionNotFound":
                return None
            raise

    def put(
        self,
        path: str,
        version: str,
        body: Mapping[str, Any],
        *,
        etag: str | None = None,
        begun: Callable[[str], None] = lambda _: None,
    ) -> Any:
        """Create or replace a resource, and wait until it is there.

        Args:
            path: Its id.
            version: Of the API.
            body: The whole of it.
            etag: Where given, it is replaced only if it is still what was read.
            begun: Is given the address of the operation, as soon as Azure has accepted it.

        Raises:
            ArmError: It was refused, or failed.
        """
        answer = self.send("PUT", path, version, body, headers={"if-match": etag} if etag else {})
        self._settled(answer, path, version, begun)
        found = self.find(path, version)
        return found.body if found else answer.body

    def delete(
        self, path: str, version: str, *, query: str = "", begun: Callable[[str], None] = lambda _: None
    ) -> bool:
        """Remove a resource and wait until it is gone; False if it was not there."""
        try:
            answer = self.send("DELETE", path, version, query=query)
        except ArmError as error:
            if error.status == 404:
                return False
            raise
        self._operation(answer, path, begun)
        return answer.status != 204

    def post(self, path: str, version: str, body: Mapping[str, Any] | None = None) -> Any:
        """An action, and what came of it once it has ended."""
        answer = self.send("POST", path, version, body)
        ended = self._operation(answer, path, lambda _: None)
        return ended.body if ended is not None else answer.body

    def listed(self, path: str, version: str, query: str = "") -> list[Any]:
        """All pages of a list."""
        answer = self.send("GET", path, version, query=query)
        found = list(answer.body["value"])
        while answer.body.get("nextLink"):
            answer = self.send("GET", answer.body["nextLink"], "")
            found += answer.body["value"]
        return found

    def waited(self, operation: str, path: str) -> Answer:
        """Wait for an operation that was begun before, perhaps by a process that is no more.

        Raises:
            ArmError: It failed, or nobody remembers it (404).
        """
        return self._polled(operation, path)

    # --- long-running operations -----------------------------------------------------------------------

    def _settled(self, answer: Answer, path: str, version: str, begun: Callable[[str], None]) -> None:
        """Until a PUT has come to its end: by the operation that was named, or else by the resource's own state."""
        if self._operation(answer, path, begun) is not None:
            return
        ends = time.monotonic() + self._patience
        while _state(answer.body) not in ("succeeded", ""):
            if _state(answer.body) in ("failed", "canceled"):
                raise _failed(path, answer.body)
            self._wait(answer, 0, path, ends)
            answer = self.send("GET", path, version)

    def _operation(self, answer: Answer, path: str, begun: Callable[[str], None]) -> Answer | None:
        where = answer.headers.get("azure-asyncoperation") or (
            answer.headers.get("location") if answer.status == 202 else None
        )
        if where is None:
            return None
        begun(where)
        self._wait(answer, 0, path, time.monotonic() + self._patience)
        return self._polled(where, path)

    def _polled(self, operation: str, path: str) -> Answer:
        began = time.monotonic()
        ends, told = began + self._patience, began
        polls = 0
        while True:
            answer = self.send("GET", operation, "")
            status = answer.body.get("status") if isinstance(answer.body, dict) else None
            # An operation says how it stands; a location answers 202 until it has ended.
            state = (
                str(status).lower()
                if isinstance(status, str)
                else ("" if answer.status != 202 else "running")
            )
            if state in ("succeeded", ""):
                return answer
            if state in ("failed", "canceled"):
                raise _failed(path, answer.body)
            if time.monotonic() - told >= TELL:
                told = time.monotonic()
                self._told(f"{_short(path)}: under way for {(told - began) / 60:.1f} minutes")
            self._wait(answer, polls, path, ends)
            polls += 1

    def _wait(self, answer: Answer, polls: int, path: str, ends: float) -> None:
        if time.monotonic() > ends:
            raise ArmError(
                f"{_short(path)}: not done after {self._patience / 60:.0f} minutes",
                hint="it goes on in Azure: run it again, and it is waited for further",
                status=0,
                code="Timeout",
            )
        asked = _retry_after(answer.headers)
        self._sleep(min(SLOWEST, asked if asked is not None else min(2.0 * 1.5**polls, 15.0)))

    # --- requests --------------------------------------------------------------------------------------

    def send(
        self,
        method: Method,
        path: str,
        version: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request, tried again while Azure is busy or away.

        Args:
            method: All are repeatable here: a PUT gives the whole, and the actions that are posted only ask or purge.
            path: An id, or the address of an operation, which must be at the same place.
            version: Of the API; empty where the address has it.
            body: JSON.
            query: More of the query.
            headers: More of them.

        Raises:
            ArmError: Azure has refused, in words.
        """
        import httpx

        url = self._address(path, version, query)
        refused = False
        for attempt in range(TRIES):
            head = {"authorization": f"Bearer {self._bearer()}", **(headers or {})}
            try:
                response = self._http.request(method, url, json=body, headers=head)
            except httpx.TransportError as error:
                if attempt + 1 == TRIES:
                    raise ArmError(
                        f"{self.url} does not answer: {type(error).__name__}",
                        hint="is the network reachable? What was begun goes on; run it again",
                        status=0,
                        code="Unreachable",
                    ) from error
                self._sleep(_backoff(attempt))
                continue
            answer = _answer(response)
            if answer.status == 401 and not refused:  # a token that was taken back: once more with a new one
                refused, self._token = True, None
                continue
            if answer.status not in (408, 429, 500, 502, 503, 504) or attempt + 1 == TRIES:
                break
            asked = _retry_after(answer.headers)
            seconds = min(SLOWEST, asked if asked is not None else _backoff(attempt))
            if seconds >= 1:
                self._told(f"{_short(path)}: Azure is busy ({answer.status}); again in {seconds:.0f} s")
            self._sleep(seconds)
        if answer.status >= 400 or 300 <= answer.status < 400:
            raise _refused(method, path, answer)
        return answer

    def _address(self, path: str, version: str, query: str) -> str:
        if path.startswith("/"):
            url = self.url + path
        elif path.startswith(self.url + "/"):
            url = path
        else:  # the token is for nobody else
            raise ArmError(
                f"an answer leads away from {self.url}, to {path.split('?', maxsplit=1)[0]}",
                hint="check `url` in the file: it is the cloud's own Resource Manager",
                status=0,
                code="Elsewhere",
            )
        more = "&".join(filter(None, [f"api-version={version}" if version else "", query]))
        return url + (("&" if "?" in url else "?") + more if more else "")

    def _bearer(self) -> str:
        if self._token is None or self._token.expires_on - time.time() < EARLY:
            from azure.core.exceptions import ClientAuthenticationError

            try:
                self._token = self._credential.get_token(f"{self.url}/.default")
            except ClientAuthenticationError as error:
                first = str(error).splitlines()[0]
                raise ArmError(
                    f"{WORDS[401][0]}: {first}", hint=WORDS[401][1], status=401, code="NoCredential"
                ) from error
        return self._token.token


def _answer(response: httpx.Response) -> Answer:
    content = response.content
    if len(content) > BODY:
        raise PenstockError(
            f"an answer of {len(content)} bytes came from Azure", hint="check `url` in the file"
        )
    try:
        body = json.loads(content) if content else None
    except ValueError:
        body = None
    return Answer(response.status_code, {k.lower(): v for k, v in response.headers.items()}, body)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number or a date (RFC 9110, section 10.2.3)."""
    text = headers.get("retry-after")
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _backoff(attempt: int) -> float:
    """Exponential, with full jitter above one half, so that many clients do not return together."""
    return float(min(30.0, 0.5 * 2**attempt) * random.uniform(0.5, 1.0))


def _state(body: Any) -> str:
    properties = body.get("properties") if isinstance(body, dict) else None
    state = properties.get("provisioningState") if isinstance(properties, dict) else None
    return str(state).lower() if state else ""


def _refused(method: str, path: str, answer: Answer) -> ArmError:
    code, said = _reason(answer.body)
    words, hint = WORDS.get(answer.status, (f"Azure has answered {answer.status}", "run it again"))
    # Machine learning answers a lack of cores with 400 or 403 and says so in words alone.
    if "quota" in said.lower():
        code = "QuotaExceeded" if code not in CODES else code
        words = "the quota does not suffice"
    hint = CODES.get(code, hint)
    verb = {"GET": "reading", "PUT": "writing", "POST": "asking for", "DELETE": "removing"}[method]
    detail = f" ({code}: {said})" if said else (f" ({code})" if code else "")
    return ArmError(
        f"{verb} {_short(path)}: {words}{detail}",
        hint=hint,
        status=answer.status,
        code=code or str(answer.status),
    )


def _failed(path: str, body: Any) -> ArmError:
    code, said = _reason(body)
    if not said and isinstance(body, dict) and isinstance(body.get("properties"), dict):
        code, said = _reason(body["properties"])
    if "quota" in said.lower() and code not in CODES:
        code = "QuotaExceeded"
    return ArmError(
        f"{_short(path)}: Azure has begun and failed: {code or 'no reason given'}{': ' if said else ''}{said}",
        hint=CODES.get(code, "mend what is named and run it again"),
        status=0,
        code=code or "Failed",
    )


def _reason(body: Any) -> tuple[str, str]:
    """Code and words of an error, with those of its details: the outermost often says only that something failed."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return "", ""
    code, said = str(error.get("code") or ""), [str(error.get("message") or "").strip()]
    for detail in error.get("details") or []:
        if isinstance(detail, dict) and detail.get("message"):
            inner = str(detail.get("code") or "")
            code = inner if inner in CODES else code
            said.append(str(detail["message"]).strip())
    return code, "; ".join(filter(None, dict.fromkeys(said)))[:600]


def _short(path: str) -> str:
    """The last of an id's types and names: the rest is the same for all."""
    parts = path.split("?", maxsplit=1)[0].rstrip("/").split("/")
    return "/".join(parts[-2:])
