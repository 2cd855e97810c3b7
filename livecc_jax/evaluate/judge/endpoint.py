"""A chat endpoint in OpenAI's protocol: one question at a time, patient with faults.

Standard library only. The key is sent, and nothing else is done with it: it is taken out of whatever a
server sends back, before that is kept or told.
"""

from __future__ import annotations

import http.client
import json
import logging
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from livecc_jax.errors import ConfigError, LiveCCError

log = logging.getLogger(__name__)

RETRIED = {408, 409, 425, 429, 500, 502, 503, 504, 529}
HOPELESS = {401, 403, 404, 405}
_LONGEST_ANSWER = 1 << 22


class EndpointError(LiveCCError):
    """The endpoint will answer no request: a wrong address, key or model."""


class NoAnswer(Exception):
    """One request stayed without an answer; others may have one."""


@dataclass(frozen=True)
class Patience:
    """How faults are waited out: delays double from first_delay to longest_delay seconds, and a random
    half is taken off, so that many workers do not come back together."""

    retries: int = 6
    first_delay: float = 1.0
    longest_delay: float = 60.0
    timeout: float = 60.0


@dataclass(frozen=True)
class Reply:
    """What came back: the text, the model that the server says it was, tokens in and out."""

    text: str
    model: str
    tokens_in: int
    tokens_out: int


class Answering(Protocol):
    """What a judge is asked through: an `Endpoint`, or a checkpoint (`local_judge.LocalJudge`).

    Attributes:
        address: of the service, told in reports.
        model: asked for.
        faults: kinds of fault met so far, to how many.
        stop: once set, nothing is waited for any more.
        steady: asked the same again, it says the same, so an answer that cannot be read is kept.
    """

    address: str
    model: str
    faults: Counter[str]
    stop: threading.Event
    steady: bool

    def request(self, prompt: str) -> dict[str, Any]:
        """All that the answer to a prompt depends on, which a cache relies on."""
        ...

    def ask(self, prompt: str) -> Reply:
        """Answer. Raises NoAnswer, or EndpointError when nothing will ever be answered."""
        ...


@dataclass
class Endpoint:
    """POST {base}/chat/completions.

    Args:
        base: address up to the version, `https://host/v1`.
        model: asked for.
        key: sent as a bearer token, if there is one.
        fields: of the request beside model and messages; None leaves a default out.
        patience: with faults.
        per_minute: most requests a minute, 0 for no limit.
        stop: once set, nothing is waited for or retried any more.
        faults: kinds of fault met so far, to how many.
    """

    base: str
    model: str
    key: str | None = field(default=None, repr=False)
    fields: dict[str, Any] = field(default_factory=dict)
    patience: Patience = Patience()
    per_minute: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    faults: Counter[str] = field(default_factory=Counter)
    steady: ClassVar[bool] = False

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.base)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"{self.address}: is not an http:// or https:// address")
        self._lock = threading.Lock()
        self._next_start = 0.0

    @property
    def address(self) -> str:
        """The address without what may be secret in it: user, password, query."""
        parts = urllib.parse.urlsplit(self.base)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{host}{port}{parts.path}"

    def request(self, prompt: str) -> dict[str, Any]:
        """The body that asks `prompt`: the same prompt has the same body, which a cache relies on."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "seed": 42,
            "max_tokens": 64,
        }
        return {k: v for k, v in (body | self.fields).items() if v is not None}

    def ask(self, prompt: str) -> Reply:
        """Ask, again and again if need be.

        Raises:
            NoAnswer: after all retries, or when the server refuses this one request.
            EndpointError: the server refuses all requests.
        """
        body = json.dumps(self.request(prompt)).encode()
        fault, wait = "", 0.0
        for attempt in range(self.patience.retries + 1):
            if attempt:
                self.stop.wait(self._delay(attempt, wait))
            self._take_turn()
            if self.stop.is_set():
                raise NoAnswer("stopped")
            wait = 0.0
            try:
                return self._once(body)
            except urllib.error.HTTPError as error:
                fault, wait = self._status(error)
            except (TimeoutError, urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reason = getattr(error, "reason", error)
                late = isinstance(reason, TimeoutError) or "timed out" in str(reason)
                fault = "timeout" if late else "connection"
            except _Nonsense as error:
                fault = str(error)
            with self._lock:
                self.faults[fault] += 1
            log.info("%s: %s (attempt %d)", self.address, fault, attempt + 1)
        raise NoAnswer(f"no answer after {self.patience.retries + 1} attempts, the last: {fault}")

    def _once(self, body: bytes) -> Reply:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        url = self.base.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=self.patience.timeout) as answer:
            raw = answer.read(_LONGEST_ANSWER).decode("utf-8", "replace")
        try:
            found = json.loads(self._clean(raw))
            said = found["choices"][0]["message"]["content"]
            usage = found.get("usage") or {}
            tokens = [int(usage.get(k) or 0) for k in ("prompt_tokens", "completion_tokens")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Nonsense("an answer that is no chat completion") from None
        if not isinstance(said, str) or not said.strip():
            raise _Nonsense("an empty answer")
        return Reply(said, str(found.get("model") or self.model), *tokens)

    def _status(self, error: urllib.error.HTTPError) -> tuple[str, float]:
        """(fault, seconds the server asks to wait) of a status to retry; else raises."""
        try:
            told = " ".join(error.read(2000).decode("utf-8", "replace").split())
        except (OSError, http.client.HTTPException):
            told = ""
        told = self._clean(told)
        if error.code in HOPELESS:
            raise EndpointError(f"{self.address}: answers {error.code} {error.reason}: {told:.200}")
        if error.code not in RETRIED:
            with self._lock:
                self.faults[f"refused ({error.code})"] += 1
            raise NoAnswer(f"refused with {error.code}: {told:.200}")
        try:
            wait = float(error.headers.get("Retry-After") or 0)
        except ValueError:
            wait = 0.0
        return f"status {error.code}", max(0.0, wait)

    def _clean(self, told: str) -> str:
        return told.replace(self.key, "[key]") if self.key else told

    def _delay(self, attempt: int, wait: float) -> float:
        longest = self.patience.longest_delay
        delay = min(longest, self.patience.first_delay * 2 ** (attempt - 1))
        return max(delay * random.uniform(0.5, 1.0), min(wait, longest))

    def _take_turn(self) -> None:
        """Wait until the rate allows a request to start."""
        if not self.per_minute:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + 60.0 / self.per_minute
        if start > now:
            self.stop.wait(start - now)


class _Nonsense(Exception):
    """An answer of the wrong form; the message is the fault's kind."""
