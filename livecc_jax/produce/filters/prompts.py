"""The prompt stage of fine-tuning data: a language model says whether a clip's words are commentary,
and writes the user's request to which they are the response (LiveCC, arXiv 2504.16030, section 3).

The model is an endpoint with OpenAI's chat completions protocol, or a checkpoint on this machine. Every
answer is kept as soon as it is there, YES or NO, so a run that was stopped asks nothing twice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.judge.answer_cache import AnswerCache
from livecc_jax.evaluate.judge.endpoint import Endpoint, RetryPolicy
from livecc_jax.evaluate.judge.judge_model import Completion, EndpointError, RequestFailed
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Clip, Rejection, reject

if TYPE_CHECKING:
    from livecc_jax.evaluate.judge.judge_model import JudgeModel

ANSWERS = "prompt-answers"  # folder of the answers, one file a worker
PLACEHOLDERS = ("{title}", "{category}", "{text}")
DEFAULT_FILE = Path(__file__).with_name("default_prompt.txt")
MAX_TOKENS = 128  # of an answer
PARALLEL = 8  # requests of a worker at a time
MAX_QUERY_CHARACTERS = 500
MAX_FAILURES = 10  # in a row, after which an endpoint is taken to be down
KEY_VARIABLES = ("LIVECC_PROMPT_KEY", "OPENAI_API_KEY")
MEASURE = "prompt_tokens"


def prompts_batch(
    clips: Sequence[Clip], parameters: Parameters, models: Models
) -> list[list[Clip | Rejection]]:
    """Keeps the clips that the model calls commentary, with the query that it wrote.

    Args:
        clips: Clips that are asked about together.
        parameters: Reads the fields of the stage "prompts".
        models: Holds the model and the answers, which are opened once.

    Returns:
        For each clip: the clip with its query, and the tokens that it took among its measures; or its
        rejection.

    Raises:
        ConfigError: The instruction or the model's name cannot be used.
        EndpointError: The endpoint refuses all requests, or has stopped answering.
    """
    writer = models.get(
        f"prompts {parameters.prompt_model} {parameters.prompt_file}",
        lambda: PromptWriter(parameters, models.folder),
    )
    return [[result] for result in writer.judge(clips)]


class PromptWriter:
    """Asks the model about clips, and keeps its answers.

    Args:
        parameters: The parameters.
        folder: Folder of the run; None keeps no answers.
        retry_policy: How faults of an endpoint are retried.
    """

    def __init__(
        self,
        parameters: Parameters,
        folder: Path | None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        self._instruction = load_instruction(parameters.prompt_file)
        self.model = open_prompt_model(parameters.prompt_model, retry_policy)
        self._known: dict[str, dict[str, Any]] = {}
        self._cache: AnswerCache | None = None
        self._failures = 0
        if folder is not None:
            own = folder / ANSWERS / f"{socket.gethostname()}-{os.getpid()}.jsonl"
            for path in sorted((folder / ANSWERS).glob("*.jsonl")):
                self._known |= read_answers(path)
            self._cache = AnswerCache(own)

    def judge(self, clips: Sequence[Clip]) -> list[Clip | Rejection]:
        """Returns each clip with its query, or its rejection; see `prompts_batch` for errors."""
        workers = 1 if self.model.deterministic else PARALLEL
        with ThreadPoolExecutor(workers) as pool:
            answers = list(pool.map(self._ask, clips))
        return [self._decide(clip, answer) for clip, answer in zip(clips, answers)]

    def _ask(self, clip: Clip) -> dict[str, Any] | RequestFailed:
        question = fill_instruction(self._instruction, clip)
        depends_on = [self.model.address, self.model.request_body(question)]
        key = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()
        if (known := self._known.get(key)) is not None:
            return known
        try:
            completion = self.model.complete(question)
        except RequestFailed as error:
            self._failures += 1
            if self._failures >= MAX_FAILURES and not self.model.deterministic:
                self.model.stop.set()
                raise EndpointError(
                    f"{self.model.address}: {self._failures} requests in a row got no answer"
                ) from error
            return error
        self._failures = 0
        record = _record(key, completion)
        # An answer that is neither YES nor NO rejects its clip, as no answer does. It is not kept, so
        # that it is asked for again where the stage is done again.
        readable = parse_answer(record["reply"]) is not None
        if self._cache is not None and (readable or self.model.deterministic):
            self._cache.put(record)
        self._known[key] = record
        return record

    def _decide(self, clip: Clip, answer: dict[str, Any] | RequestFailed) -> Clip | Rejection:
        if isinstance(answer, RequestFailed):
            return reject(clip, "prompts", "no answer", str(answer)[:200])
        tokens = [answer["tokens_in"], answer["tokens_out"]]
        verdict = parse_answer(answer["reply"])
        if verdict is None:
            value = {"answer": answer["reply"][:200], "tokens": tokens}
            return reject(clip, "prompts", "answer is neither YES with a query nor NO", value)
        if verdict == "":
            value = {"answer": answer["reply"][:200], "tokens": tokens}
            return reject(clip, "prompts", "not judged to be commentary", value)
        return dataclasses.replace(clip, query=verdict, measures={**clip.measures, MEASURE: tokens})


def open_prompt_model(name: str, retry_policy: RetryPolicy | None = None) -> JudgeModel:
    """Opens the model that writes queries.

    Args:
        name: `https://host/v1#MODEL` for an endpoint, whose key is in an environment variable, or the
            path of a checkpoint.
        retry_policy: How faults of an endpoint are retried.

    Raises:
        ConfigError: The address names no model.
        CheckpointError: The checkpoint cannot be opened.
    """
    if not name.startswith(("http://", "https://")):
        from livecc_jax.evaluate.judge.local_judge import LocalJudge

        return LocalJudge(name, max_tokens=MAX_TOKENS)
    base, _, model = name.partition("#")
    if not model:
        raise ConfigError(f"{base}: name the endpoint's model behind #, as in {base}#gpt-4o-mini")
    key = next((os.environ[v] for v in KEY_VARIABLES if os.environ.get(v)), None)
    return Endpoint(base, model, key, {"max_tokens": MAX_TOKENS}, retry_policy or RetryPolicy())


def load_instruction(path: str) -> str:
    """Returns the instruction in a file; "" is the one that is shipped.

    Raises:
        ConfigError: The file cannot be read, or has no place for the words.
    """
    file = Path(path) if path else DEFAULT_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: the instruction cannot be read: {error}") from error
    if "{text}" not in text:
        raise ConfigError(f"{file}: the instruction lacks {{text}}, the place of the words")
    return text


def fill_instruction(instruction: str, clip: Clip) -> str:
    """Fills the placeholders, in one pass: a placeholder within a title is left as it is."""
    values = dict(zip(PLACEHOLDERS, (clip.title, clip.category, clip.text)))
    return re.sub("|".join(map(re.escape, PLACEHOLDERS)), lambda m: values[m[0]], instruction)


def parse_answer(text: str) -> str | None:
    """Returns the query of a YES, "" for a NO, and None for an answer that is neither."""
    match = re.match(r"[\s*_`\"'#]*(yes|no)\b[\s*_`\"'.:,;!-]*", text, re.IGNORECASE)
    if match is None:
        return None
    if match[1].lower() == "no":
        return ""
    rest = re.sub(
        r"^(?:query|request|prompt)\s*:\s*", "", text[match.end() :].strip(), flags=re.IGNORECASE
    )
    query = " ".join(rest.split()).strip("\"'`*_ ")
    return query if 0 < len(query) <= MAX_QUERY_CHARACTERS else None


def read_answers(path: Path) -> dict[str, dict[str, Any]]:
    """Returns the answers in a file by their keys; lines that were cut short are left out."""
    from livecc_jax.bounded_json import JsonError, parse_json

    found = {}
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = parse_json(line) if line else None
        except JsonError:
            continue
        if isinstance(record, dict) and {"key", "reply", "tokens_in", "tokens_out"} <= record.keys():
            found[record["key"]] = record
    return found


def _record(key: str, completion: Completion) -> dict[str, Any]:
    return {
        "key": key,
        "reply": completion.text,
        "model": completion.model,
        "tokens_in": completion.prompt_tokens,
        "tokens_out": completion.completion_tokens,
    }
