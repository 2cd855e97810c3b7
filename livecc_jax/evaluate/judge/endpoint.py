"""A judge behind an endpoint with OpenAI's chat completions protocol, with retries and a rate limit.

The API key is sent to the server and used for nothing else: it is removed from every text that the
server returns before that is stored or logged, and no redirect is followed with it.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx
import tenacity

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
            self._url = httpx.URL(self.base.rstrip("/") + "/chat/completions")
        except (ValueError, httpx.InvalidURL):
            is_usable = False
        if not is_usable:
            raise ConfigError(f"{redact_address(self.base)}: is not an http:// or https:// address")
        # A key from a file often ends in a line break.
        self.key = (self.key or "").strip() or None
        if self.key and not (self.key.isascii() and self.key.isprintable()):
            raise ConfigError("the API key holds a character that cannot be sent in a request")
        # It follows no redirect: the request holds the API key, which no other address may receive.
        self._client = httpx.Client(
            follow_redirects=False,
            timeout=self.retry_policy.timeout,
            limits=httpx.Limits(
                max_connections=None
            ),  # the judging decides how many requests there are
        )
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
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.retry_policy.retries + 1),
            wait=self._delay,
            sleep=tenacity.sleep_using_event(self.stop),
            retry=tenacity.retry_if_exception_type(_Fault),
            after=self._count_fault,
        )
        try:
            return retrying(self._attempt, json.dumps(self.request_body(prompt)).encode())
        except tenacity.RetryError as error:
            attempts = error.last_attempt.attempt_number
            fault = error.last_attempt.exception()
            raise RequestFailed(f"no answer after {attempts} attempts, the last: {fault}") from None

    def _attempt(self, body: bytes) -> Completion:
        """Sends a request once. Raises _Fault where another attempt may succeed."""
        self._wait_for_rate_limit()
        if self.stop.is_set():
            raise RequestFailed("stopped")
        try:
            raw = self._send(body)
        except httpx.TimeoutException:
            raise _Fault("timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError):
            raise _Fault("connection") from None
        return self._parse(raw.decode("utf-8", "replace"))

    def _send(self, body: bytes) -> bytes:
        """Returns the body of a successful response. Raises as `_check_status`, and httpx's errors."""
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        auth = _BearerKey(self.key) if self.key else httpx.USE_CLIENT_DEFAULT
        with self._client.stream(
            "POST", self._url, content=body, headers=headers, auth=auth
        ) as response:
            if not response.is_success:
                self._check_status(response)
            return _read(response, _MAX_RESPONSE_BYTES)

    def _parse(self, raw: str) -> Completion:
        try:
            completion = parse_json(self._without_key(raw))
            content = completion["choices"][0]["message"]["content"]
            usage = completion.get("usage") or {}
            tokens = [int(usage.get(k) or 0) for k in ("prompt_tokens", "completion_tokens")]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Fault("an answer that is no chat completion") from None
        if not isinstance(content, str) or not content.strip():
            raise _Fault("an empty answer")
        # Once more: JSON may spell the key with escapes.
        content = self._without_key(content)
        model = self._without_key(str(completion.get("model") or self.model))
        return Completion(content, model, *tokens)

    def _check_status(self, response: httpx.Response) -> None:
        """Raises the error of a response that is no success.

        Raises:
            _Fault: The request may be sent again.
            RequestFailed: The server refuses this request.
            EndpointError: The server refuses all requests.
        """
        code = response.status_code
        try:
            message = " ".join(_read(response, 2000).decode("utf-8", "replace").split())
        except (httpx.HTTPError, httpx.StreamError, OSError):
            message = ""
        message = self._without_key(message)
        if 300 <= code < 400:
            location = urllib.parse.urljoin(str(self._url), response.headers.get("Location") or "")
            raise EndpointError(
                f"{self.address}: redirects to {self._without_key(redact_address(location)):.200}; "
                "requests are not redirected, so give the judge's own address as --endpoint"
            )
        if code in FATAL_STATUS:
            reason = self._without_key(response.reason_phrase)
            raise EndpointError(f"{self.address}: answers {code} {reason}: {message:.200}")
        if code not in RETRYABLE_STATUS:
            with self._lock:
                self.fault_counts[f"refused ({code})"] += 1
            raise RequestFailed(f"refused with {code}: {message:.200}")
        try:
            retry_after = max(0.0, float(response.headers.get("Retry-After") or 0))
        except ValueError:
            retry_after = 0.0
        raise _Fault(f"status {code}", retry_after)

    def _without_key(self, text: str) -> str:
        return text.replace(self.key, "[key]") if self.key else text

    def _count_fault(self, state: tenacity.RetryCallState) -> None:
        fault = str(state.outcome.exception())
        with self._lock:
            self.fault_counts[fault] += 1
        log.info("%s: %s (attempt %d)", self.address, fault, state.attempt_number)

    def _delay(self, state: tenacity.RetryCallState) -> float:
        """Returns the seconds to wait: exponential with jitter, or longer if the server asks for it."""
        policy = self.retry_policy
        exponential = tenacity.wait_exponential(policy.initial_delay, policy.max_delay)(state)
        asked = min(state.outcome.exception().retry_after, policy.max_delay)
        return max(exponential * random.uniform(0.5, 1.0), asked)

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


class _BearerKey(httpx.Auth):
    """Sends the API key, also where the address names a user, whom httpx would send in its place."""

    def __init__(self, key: str) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Iterator[httpx.Request]:
        """Adds the header to the one request that there is."""
        request.headers["Authorization"] = f"Bearer {self._key}"
        yield request


class _Fault(Exception):
    """A fault after which another attempt may succeed; the message is its kind.

    Attributes:
        retry_after: Seconds that the server asks to wait.
    """

    def __init__(self, kind: str, retry_after: float = 0.0) -> None:
        super().__init__(kind)
        self.retry_after = retry_after


def _read(response: httpx.Response, limit: int) -> bytes:
    """Returns at most `limit` bytes of a streamed response, as they were sent."""
    read = bytearray()
    for chunk in response.iter_raw():
        read += chunk
        if len(read) >= limit:
            break
    return bytes(read[:limit])
