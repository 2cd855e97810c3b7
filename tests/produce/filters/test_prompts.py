"""The prompt stage against an endpoint that fails in every way, and what is kept of its answers."""

import contextlib
import dataclasses
import http.server
import json
import threading

import pytest

from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.judge.endpoint import RetryPolicy
from livecc_jax.evaluate.judge.judge_model import EndpointError
from livecc_jax.produce.filters.prompts import (
    PromptWriter,
    fill_instruction,
    load_instruction,
    parse_answer,
    prompts_batch,
)
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import SFT
from livecc_jax.produce.records import Clip, Rejection, Word

FAST = RetryPolicy(retries=2, initial_delay=0.001, max_delay=0.002, timeout=0.5)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = body["messages"][0]["content"]
        with self.server.lock:
            self.server.asked.append(asked)
        answer = self.server.behave(asked, len(self.server.asked))
        if answer is None:  # never answers
            self.server.closing.wait(5)
            return
        status, raw = answer if isinstance(answer, tuple) else (200, _completion(answer))
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(raw.encode())

    def log_message(self, *args):
        pass


def _completion(text):
    return json.dumps(
        {
            "model": "m",
            "choices": [{"message": {"content": text}}],
            "usage": {"prompt_tokens": 90, "completion_tokens": 7},
        }
    )


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    running = []

    def start(behave):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.daemon_threads = True
        server.behave, server.asked, server.lock = behave, [], threading.Lock()
        server.closing = threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        running.append(server)
        name = f"http://127.0.0.1:{server.server_port}/v1#model"
        return server, dataclasses.replace(SFT, prompt_model=name)

    yield start
    for server in running:
        server.closing.set()
        server.shutdown()
        server.server_close()


def clip(number):
    words = tuple(
        Word(500 * i, 500 * i + 400, w) for i, w in enumerate(f"words of clip{number}".split())
    )
    return Clip(
        number, 0, f"id{number}", "v.mp4", 0, 1500, words, title=f"Title {number}", category="Sports"
    )


def test_queries_are_kept_noes_dropped_and_nothing_is_asked_twice(serve, tmp_path):
    def behave(asked, count):
        return "YES\nPlease commentate on this." if "clip1" in asked or "clip3" in asked else "NO"

    server, parameters = serve(behave)
    clips = [clip(i) for i in range(4)]
    results = [r for [r] in prompts_batch(clips, parameters, Models(tmp_path))]
    assert [getattr(r, "query", None) for r in results] == [None, "Please commentate on this."] * 2
    assert {r.reason for r in results[::2]} == {"not judged to be commentary"}
    assert results[1].measures["prompt_tokens"] == [90, 7]
    assert results[0].value["tokens"] == [90, 7]
    assert len(server.asked) == 4
    assert sum("Title 2" in asked for asked in server.asked) == 1
    # Another worker, later: both kinds of answers are there already.
    again = [r for [r] in prompts_batch(clips, parameters, Models(tmp_path))]
    assert again == results
    assert len(server.asked) == 4


def test_every_kind_of_fault_is_a_reason_or_is_tried_again(serve, tmp_path):
    faults = {
        0: (500, "oops"), 1: (200, "no json"), 2: (200, '{"choices": []}'), 3: _completion(""),
        4: (400, "refused"), 5: "Perhaps.", 6: None, 7: "YES", 8: (429, "slow"), 9: "yes: Explain it!",
    }  # fmt: skip

    def behave(asked, count):
        number = next(n for n in faults if f"clip{n}" in asked.split())
        return faults[number] if number != 3 else (200, faults[3])

    _, parameters = serve(behave)
    writer = PromptWriter(parameters, tmp_path, FAST)
    results = []
    for i in range(10):
        results += writer.judge([clip(i)])
        writer._failures = 0  # each fault by itself: ten in a row mean that the endpoint is down
    reasons = {i: r.reason for i, r in enumerate(results) if isinstance(r, Rejection)}
    assert reasons == {
        **dict.fromkeys((0, 1, 2, 3, 4, 6, 8), "no answer"),
        **dict.fromkeys((5, 7), "answer is neither YES with a query nor NO"),
    }
    assert results[9].query == "Explain it!"
    # What could not be read is asked again by the next run, and may then be answered.
    faults[5] = "NO"
    [later] = PromptWriter(parameters, tmp_path, FAST).judge([clip(5)])
    assert later.reason == "not judged to be commentary"


@pytest.mark.parametrize("answer", [(401, "key sk-secret is wrong"), (500, "down")])
def test_an_endpoint_that_refuses_all_ends_the_run_without_the_key(serve, tmp_path, answer):
    _, parameters = serve(lambda asked, count: answer)
    with pytest.raises(EndpointError) as error:
        PromptWriter(parameters, tmp_path, FAST).judge([clip(i) for i in range(12)])
    assert "sk-secret" not in str(error.value)


def test_answers_are_read_as_they_are_meant():
    assert parse_answer("YES\nDescribe the match.") == "Describe the match."
    assert parse_answer('**Yes**. Query: "Walk me through it."') == "Walk me through it."
    assert parse_answer("no, several people talk") == ""
    assert parse_answer("NOTHING of this") is None
    assert parse_answer("Yesterday we") is None
    assert parse_answer("YES") is None
    assert parse_answer("YES\n" + "long " * 200) is None


def test_the_instruction_is_a_file_and_titles_are_text(tmp_path):
    odd = dataclasses.replace(clip(1), title="{text} {category}")
    filled = fill_instruction("{title}|{category}|{text}", odd)
    assert filled == "{text} {category}|Sports|words of clip1"
    (tmp_path / "own.txt").write_text("Say YES.")
    with pytest.raises(ConfigError, match=r"own\.txt: the instruction lacks \{text\}"):
        load_instruction(str(tmp_path / "own.txt"))
    with pytest.raises(ConfigError, match="name the endpoint's model behind #"):
        PromptWriter(dataclasses.replace(SFT, prompt_model="https://host/v1"), None)


def test_a_run_keeps_queries_and_counts_tokens_and_price(serve, tmp_path, capsys):
    from livecc_jax.cli import main
    from tests.support.produce import clips_of, rejections_of, write_sources

    def behave(asked, count):
        return "NO" if "Title 2" in asked else "YES\nPlease commentate."

    server, parameters = serve(behave)
    sources = write_sources(tmp_path / "sources.jsonl", 4, category="Sports")
    command = [
        "produce", "sft", str(sources), "--out", str(tmp_path / "out"), "--workers", "1",
        "--filters", "prompts", "--prompt-model", parameters.prompt_model,
        "--price-in", "1000000", "--price-out", "0", "--set", "sentence_starts=false",
    ]  # fmt: skip
    assert main(command) == 0
    clips, rejections = clips_of(tmp_path / "out"), rejections_of(tmp_path / "out")
    assert {c[0]["content"][1]["text"] for c in clips} == {"Please commentate."}
    dropped = [r for r in rejections if r["stage"] == "prompts"]
    assert {r["source"] for r in dropped} == {"video2.mp4"}
    asked = len(clips) + len(dropped)
    assert len(server.asked) == asked
    said = capsys.readouterr().out
    assert (
        f"{90 * asked:,} tokens asked, {7 * asked:,} answered, at a price of {90 * asked:,.2f}" in said
    )
    assert main(command) == 0
    assert len(server.asked) == asked
