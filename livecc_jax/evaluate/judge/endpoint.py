"""A judge behind an endpoint with OpenAI's chat completions protocol, with retries and a rate limit.

It needs the standard library only. The API key is sent to the server and used for nothing else: it is
removed from every text that the server returns before that is stored or logged, and no redirect is
followed with it.
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
from typing import Any, ClassVar

from livecc_jax.bounded_json import parse_json
from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.judge.judge_model import Completion, EndpointError, RequestFailed
from livecc_jax.redact import redact_address

log = logging.getLogger(__name__)

RETRYABLE_STATUS = {408, 409, 425, 429, 500, 502, 503, 504, 529}
FATAL_STATUS = {401, 403, 404, 405}
_MAX_RESPONSE_BYTES = 1 << 22


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with jitter.

    The delay doubles with every attempt. Up to half of it is taken off at random, so that many workers
    do not retry at the same moment.

    Attributes:
        retries: Number of retries after the first attempt.
        initial_delay: Delay before the first retry, seconds.
        max_delay: Longest delay, seconds.
        timeout: Timeout of one request, seconds.
    """

    retries: int = 6
    initial_delay: float = 1.0
    max_delay: float = 60.0
    timeout: float = 60.0


@dataclass
class Endpoint:
    """A judge model behind POST {base}/chat/completions.

    Args:
        base: Address up to the version, such as `https://host/v1`.
        model: Name of the model to request.
        key: API key, sent as a bearer token if there is one.
        fields: Fields of the request besides model and messages; None removes a default field.
        retry_policy: How faults are retried.
        requests_per_minute: Rate limit; 0 for none.
        stop: When it is set, requests fail instead of waiting or being retried.
        fault_counts: Number of faults so far, by kind.

    Raises:
        ConfigError: The address is not http or https, or the key cannot be sent.
    """

    base: str = field(repr=False)
    model: str
    key: str | None = field(default=None, repr=False)
    fields: dict[str, Any] = field(default_factory=dict)
    retry_policy: RetryPolicy = RetryPolicy()
    requests_per_minute: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event, repr=False)
    fault_counts: Counter[str] = field(default_factory=Counter)
    deterministic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        try:
            parts = urllib.parse.urlsplit(self.base)
            is_usable = parts.scheme in ("http", "https") and bool(parts.hostname)
            _ = parts.port  # raises ValueError where it is no number
        except ValueError:
            is_usable = False
        if not is_usable:
            raise ConfigError(f"{redact_address(self.base)}: is not an http:// or https:// address")
        # A key from a file often ends in a line break.
        self.key = (self.key or "").strip() or None
        if self.key and not (self.key.isascii() and self.key.isprintable()):
            raise ConfigError("the API key holds a character that cannot be sent in a request")
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._lock = threading.Lock()
        self._next_start = 0.0

    @property
    def address(self) -> str:
        """The address without the parts that may be secret: user, password and query."""
        parts = urllib.parse.urlsplit(self.base)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{host}{port}{parts.path}"

    def request_body(self, prompt: str) -> dict[str, Any]:
        """Returns the request body of a prompt; the same prompt always has the same body."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "seed": 42,
            "max_tokens": 64,
        }
        return {k: v for k, v in (body | self.fields).items() if v is not None}

    def complete(self, prompt: str) -> Completion:
        """Requests a completion, and retries as the policy says.

        Raises:
            RequestFailed: All retries failed, or the server refuses this one request.
            EndpointError: The server refuses all requests.
        """
        body = json.dumps(self.request_body(prompt)).encode()
        fault, retry_after = "", 0.0
        for attempt in range(self.retry_policy.retries + 1):
            if attempt:
                self.stop.wait(self._delay(attempt, retry_after))
            self._wait_for_rate_limit()
            if self.stop.is_set():
                raise RequestFailed("stopped")
            retry_after = 0.0
            try:
                return self._send(body)
            except urllib.error.HTTPError as error:
                fault, retry_after = self._check_status(error)
            except (TimeoutError, urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reason = getattr(error, "reason", error)
                timed_out = isinstance(reason, TimeoutError) or "timed out" in str(reason)
                fault = "timeout" if timed_out else "connection"
            except _InvalidResponse as error:
                fault = str(error)
            with self._lock:
                self.fault_counts[fault] += 1
            log.info("%s: %s (attempt %d)", self.address, fault, attempt + 1)
        raise RequestFailed(
            f"no answer after {self.retry_policy.retries + 1} attempts, the last: {fault}"
        )

    def _send(self, body: bytes) -> Completion:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        url = self.base.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, body, headers)
        with self._opener.open(request, timeout=self.retry_policy.timeout) as response:
            raw = response.read(_MAX_RESPONSE_BYTES).decode("utf-8", "replace")
        try:
            completion = parse_json(self._without_key(raw))
            content = completion["choices"][0]["message"]["content"]
            usage = completion.get("usage") or {}
            tokens = [int(usage.get(k) or 0) for k in ("prompt_tokens", "completion_tokens")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _InvalidResponse("an answer that is no chat completion") from None
        if not isinstance(content, str) or not content.strip():
            raise _InvalidResponse("an empty answer")
        # Once more: JSON may spell the key with escapes.
        content = self._without_key(content)
        model = self._without_key(str(completion.get("model") or self.model))
        return Completion(content, model, *tokens)

    def _check_status(self, error: urllib.error.HTTPError) -> tuple[str, float]:
        """Returns (fault, seconds that the server asks to wait) of a status that may be retried.

        Raises:
            RequestFailed: The server refuses this request.
            EndpointError: The server refuses all requests.
        """
        try:
            message = " ".join(error.read(2000).decode("utf-8", "replace").split())
        except (OSError, http.client.HTTPException):
            message = ""
        message = self._without_key(message)
        if 300 <= error.code < 400:
            location = urllib.parse.urljoin(error.url, error.headers.get("Location") or "")
            raise EndpointError(
                f"{self.address}: redirects to {self._without_key(redact_address(location)):.200}; "
                "requests are not redirected, so give the judge's own address as --endpoint"
            )
        if error.code in FATAL_STATUS:
            reason = self._without_key(str(error.reason))
            raise EndpointError(f"{self.address}: answers {error.code} {reason}: {message:.200}")
        if error.code not in RETRYABLE_STATUS:
            with self._lock:
                self.fault_counts[f"refused ({error.code})"] += 1
            raise RequestFailed(f"refused with {error.code}: {message:.200}")
        try:
            retry_after = float(error.headers.get("Retry-After") or 0)
        except ValueError:
            retry_after = 0.0
        return f"status {error.code}", max(0.0, retry_after)

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "[key]") if self.key else text

    def _delay(self, attempt: int, retry_after: float) -> float:
        max_delay = self.retry_policy.max_delay
        delay = min(max_delay, self.retry_policy.initial_delay * 2 ** (attempt - 1))
        return max(delay * random.uniform(0.5, 1.0), min(retry_after, max_delay))

    def _wait_for_rate_limit(self) -> None:
        """Waits until the rate limit allows another request to start."""
        if not self.requests_per_minute:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + 60.0 / self.requests_per_minute
        if start > now:
            self.stop.wait(start - now)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the request holds the API key, which no other address may receive."""

    def redirect_request(self, *_: object) -> None:
        """Returns None, so that the redirect is raised as an HTTPError."""
        return None


class _InvalidResponse(Exception):
    """A response that is not a chat completion; the message is the kind of fault."""
