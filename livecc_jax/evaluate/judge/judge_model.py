"""The interface of a judge model: an API endpoint or a local checkpoint."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

from livecc_jax.errors import LiveCCError


class EndpointError(LiveCCError):
    """The endpoint will answer no request at all: its address, the key or the model is wrong."""


class RequestFailed(Exception):
    """One request got no answer; other requests may still get one."""


@dataclass(frozen=True)
class Completion:
    """The answer of a judge model.

    Attributes:
        text: Generated text.
        model: Name of the model, as the server reports it.
        prompt_tokens: Number of tokens of the prompt.
        completion_tokens: Number of generated tokens.
    """

    text: str
    model: str
    prompt_tokens: int
    completion_tokens: int


class JudgeModel(Protocol):
    """A model that answers prompts: an `Endpoint` or a `LocalJudge`.

    Attributes:
        address: Address of the service, stated in reports.
        model: Name of the model that is requested.
        fault_counts: Number of faults so far, by kind.
        stop: When it is set, requests fail instead of waiting.
        deterministic: The same prompt always gets the same answer, so an unreadable answer is cached
            as well: asking again would not help.
    """

    address: str
    model: str
    fault_counts: Counter[str]
    stop: threading.Event
    deterministic: bool

    def request_body(self, prompt: str) -> dict[str, Any]:
        """Returns everything that the answer to a prompt depends on; it is the key of the cache."""
        ...

    def complete(self, prompt: str) -> Completion:
        """Answers a prompt.

        Raises:
            RequestFailed: This prompt gets no answer.
            EndpointError: No prompt will ever get an answer.
        """
        ...
