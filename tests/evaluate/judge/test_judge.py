"""The judge, against a real local server that fails in every way a server can."""

import contextlib
import http.server
import json
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from livecc_jax.cli import main
from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.judge.answer_cache import AnswerCache
from livecc_jax.evaluate.judge.endpoint import Endpoint, RetryPolicy
from livecc_jax.evaluate.judge.judge_model import EndpointError, RequestFailed
from livecc_jax.evaluate.judge.judging import CommentaryPair, judge_pairs
from livecc_jax.evaluate.judge.prompt import (
    DEFAULT_PROMPT,
    fill_prompt,
    load_prompt,
    parse_verdict,
)

NEVER = object()
KEY = "sk-very-secret"
FAST_RETRIES = RetryPolicy(retries=4, initial_delay=0.001, max_delay=0.002, timeout=60)


class Server(http.server.ThreadingHTTPServer):
    """A server whose answers are `behave(body, count)`: a text, (status, body), or NEVER."""

    daemon_threads = True

    def __init__(self, behave):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave, self.bodies, self.keys, self.lock = behave, [], [], threading.Lock()
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.append(self.headers.get("Authorization"))
            count = len(self.server.bodies)
        response = self.server.behave(body, count)
        if response is NEVER:
            self.server.closing.wait()
            return
        status, raw = response if isinstance(response, tuple) else (200, completion(response))
        if isinstance(raw, str):
            raw = raw.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        if 300 <= status < 400:
            self.send_header("Location", self.server.location)
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may have given up
            self.wfile.write(raw)

    def log_message(self, *args):
        pass


def completion(text):
    return json.dumps(
        {
            "model": "judge-2026-11-01",
            "choices": [{"message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 3},
        }
    )


@pytest.fixture
def serve():
    running = []

    def start(behave):
        running.append(Server(behave))
        return running[-1]

    yield start
    for server in running:
        server.closing.set()
        server.shutdown()
        server.server_close()


def test_verdicts_are_read_and_prompts_filled(tmp_path):
    verdicts = {
        "Commentary A": "a",
        "**Commentary B**.": "b",
        "Commentary B is better aligned than Commentary A": "b",
        "Commentary A is clearly closer; Commentary B is not": "a",
        "B": "b",
        "tie": "tie",
        "Both Commentary A and Commentary B are fine": None,
        "I cannot help with that": None,
    }
    assert {answer: parse_verdict(answer) for answer in verdicts} == verdicts
    filled = fill_prompt(DEFAULT_PROMPT, "{human}", "b {commentary_a}", "h")
    assert "[Commentary A]\n{human}\n" in filled
    assert "b {commentary_a}" in filled
    assert load_prompt(None) == DEFAULT_PROMPT
    short = tmp_path / "prompt.txt"
    short.write_text("{commentary_a} or {human}?")
    with pytest.raises(ConfigError, match="commentary_b"):
        load_prompt(short)


def test_faults_are_retried(serve):
    """Status 429, status 500, invalid JSON, an empty answer, and then an answer."""
    responses = [
        (429, "slow down"),
        (500, f"oh no {KEY}"),
        (200, "<html>nonsense</html>"),
        "",
        "Commentary B",
    ]
    server = serve(lambda body, count: responses[count - 1])
    endpoint = Endpoint(server.url, "judge", KEY, retry_policy=FAST_RETRIES)
    answer = endpoint.complete("?")
    assert (answer.text, answer.model, answer.prompt_tokens) == (
        "Commentary B",
        "judge-2026-11-01",
        100,
    )
    assert endpoint.fault_counts == Counter(
        {
            "status 429": 1,
            "status 500": 1,
            "an answer that is no chat completion": 1,
            "an empty answer": 1,
        }
    )
    assert server.keys == [f"Bearer {KEY}"] * 5
    assert server.bodies[0]["temperature"] == 0


def test_a_server_that_never_answers(serve):
    server = serve(lambda body, count: NEVER)
    endpoint = Endpoint(server.url, "judge", retry_policy=RetryPolicy(1, 0.001, 0.001, 0.1))
    with pytest.raises(RequestFailed, match="timeout"):
        endpoint.complete("?")
    assert endpoint.fault_counts == {"timeout": 2}


def test_refusals_are_not_retried(serve):
    """A wrong key ends the run, and the message hides the key; a refusal ends one request."""
    server = serve(lambda body, count: (401, f"Incorrect key {KEY}"))
    with pytest.raises(EndpointError, match=r"401.*\[key\]") as caught:
        Endpoint(server.url, "judge", KEY, retry_policy=FAST_RETRIES).complete("?")
    assert KEY not in str(caught.value)
    assert len(server.bodies) == 1
    server = serve(lambda body, count: (400, "content filter"))
    with pytest.raises(RequestFailed, match="400"):
        Endpoint(server.url, "judge", KEY, retry_policy=FAST_RETRIES).complete("?")
    assert len(server.bodies) == 1
    unreachable = Endpoint("http://127.0.0.1:9/v1", "judge", retry_policy=FAST_RETRIES)
    with pytest.raises(RequestFailed, match="connection"):
        unreachable.complete("?")
    assert unreachable.fault_counts["connection"] == FAST_RETRIES.retries + 1
    with pytest.raises(ConfigError):
        Endpoint("ftp://user:secret@host", "judge")
    assert "secret" not in Endpoint("http://u:secret@host/v1?k=secret", "judge").address


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_receives_the_key(serve, status):
    """Neither another port, which is another server, nor another address of the same one."""
    other = serve(lambda body, count: "Commentary A")
    places = {"elsewhere": f"{other.url}/chat/completions", "here": "/v2/chat/completions"}
    for place in places.values():
        server = serve(lambda body, count: (status, ""))
        server.location = place
        with pytest.raises(EndpointError, match=r"redirects to http://127\.0\.0\.1") as caught:
            Endpoint(server.url, "judge", KEY, retry_policy=FAST_RETRIES).complete("?")
        assert KEY not in str(caught.value)
        assert server.keys == [f"Bearer {KEY}"]
    assert other.keys == []


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n", " "])
def test_a_key_that_ends_in_a_line_break(serve, end):
    server = serve(lambda body, count: "Commentary A")
    endpoint = Endpoint(server.url, "judge", KEY + end, retry_policy=FAST_RETRIES)
    assert endpoint.complete("?").text == "Commentary A"
    assert server.keys == [f"Bearer {KEY}"]
    assert KEY not in repr(endpoint)


def test_the_key_goes_before_a_user_in_the_address(serve):
    server = serve(lambda body, count: "Commentary A")
    address = server.url.replace("//", "//user:s3cret@")
    assert Endpoint(address, "judge", KEY).complete("?").text == "Commentary A"
    assert server.keys == [f"Bearer {KEY}"]


def test_a_response_that_never_ends_is_cut(serve, monkeypatch):
    monkeypatch.setattr("livecc_jax.evaluate.judge.endpoint._MAX_RESPONSE_BYTES", 1000)
    server = serve(lambda body, count: (200, completion("Commentary A") + " " * 1000))
    endpoint = Endpoint(server.url, "judge", retry_policy=RetryPolicy(0))
    assert endpoint.complete("?").text == "Commentary A"
    server.behave = lambda body, count: (200, " " * 1000 + completion("Commentary A"))
    with pytest.raises(RequestFailed, match="no chat completion"):
        endpoint.complete("?")


def test_waiting_ends_when_the_run_is_stopped(serve):
    server = serve(lambda body, count: (500, "busy"))
    endpoint = Endpoint(server.url, "judge", retry_policy=RetryPolicy(3, 600.0, 600.0))
    threading.Timer(0.2, endpoint.stop.set).start()
    with pytest.raises(RequestFailed, match="stopped"):
        endpoint.complete("?")
    assert len(server.keys) == 1


def test_a_key_that_cannot_be_sent_is_not_printed(monkeypatch, capsys, tmp_path):
    for key in (f"{KEY}\r\nHost: x", f"{KEY}\u2019"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        sides = ["--baseline", "b.jsonl", "--reference", "r.jsonl", "--out", str(tmp_path / "out")]
        judge = ["--endpoint", "http://user:s3cret@127.0.0.1:9/v1", "--judge", "judge"]
        assert main(["judge", "p.jsonl", *sides, *judge]) == 2
        message = capsys.readouterr().err
        assert "key holds a character that cannot be sent" in message
        assert KEY not in message
        assert "s3cret" not in message
    for base in ("http://user:s3c/ret@host/v1", "http://[s3cret/v1"):
        with pytest.raises(ConfigError) as caught:
            Endpoint(base, "judge")
        assert "ret@" not in str(caught.value)


def test_rate_limit(serve):
    server = serve(lambda body, count: "Commentary A")
    endpoint = Endpoint(server.url, "judge", retry_policy=FAST_RETRIES, requests_per_minute=60 / 0.05)
    start = time.monotonic()
    for _ in range(4):
        endpoint.complete("?")
    assert time.monotonic() - start >= 0.15


PAIRS = [CommentaryPair(f"v_{i}", f"ours {i}", f"theirs {i}", f"human {i}") for i in range(6)]


def prefers_ours(body, count):
    """Prefers our commentary wherever it stands, but for event 5 always the first one."""
    prompt = body["messages"][0]["content"]
    if "human 5" in prompt:
        return "Commentary A"
    return "Commentary A" if prompt.index("ours") < prompt.index("theirs") else "Commentary B"


def test_both_orders_and_a_cache(serve, tmp_path):
    """No prompt is sent twice: not by a second run, nor after a kill that truncates the last line."""
    server = serve(prefers_ours)

    def run(pairs=PAIRS, prompt=DEFAULT_PROMPT):
        cache = AnswerCache(tmp_path / "answers.jsonl")
        endpoint = Endpoint(server.url, "judge", KEY, retry_policy=FAST_RETRIES)
        result = judge_pairs(pairs, endpoint, prompt, cache, ("Ours", "Theirs"), workers=3)
        cache.close()
        return result

    first = run()
    assert [r["ab_winner"] for r in first.verdicts] == ["Ours"] * 6
    assert [r["ba_winner"] for r in first.verdicts] == ["Ours"] * 5 + ["Theirs"]
    assert (first.new_answers, first.cached_answers, first.new_prompt_tokens) == (12, 0, 1200)
    again = run()
    assert again.verdicts == first.verdicts
    assert (again.new_answers, again.cached_answers) == (0, 12)
    assert (again.new_prompt_tokens, again.prompt_tokens) == (0, 1200)
    complete_file = (tmp_path / "answers.jsonl").read_text()
    (tmp_path / "answers.jsonl").write_text(complete_file[:-40])
    assert (run().new_answers, run().new_answers) == (1, 0)
    assert run(prompt=DEFAULT_PROMPT + "\n").new_answers == 12  # the prompt is part of the key
    changed = [*PAIRS[:5], CommentaryPair("v_5", "ours other", "theirs 5", "human 5")]
    assert run(changed).new_answers == 2
    assert len(server.bodies) == 12 + 1 + 12 + 2


def test_a_dead_endpoint_ends_the_run_and_its_answers_stay_cached(serve, tmp_path):
    server = serve(lambda body, count: "Commentary A" if count <= 3 else (503, "down"))
    cache = AnswerCache(tmp_path / "answers.jsonl")
    endpoint = Endpoint(server.url, "judge", retry_policy=RetryPolicy(1, 0.001, 0.001, 60))
    pairs = [CommentaryPair(f"v_{i}", "a", "b", f"h {i}") for i in range(40)]
    with pytest.raises(EndpointError, match="in a row"):
        judge_pairs(pairs, endpoint, DEFAULT_PROMPT, cache, ("A", "B"), workers=1)
    cache.close()
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 3


def test_command(serve, tmp_path, capsys, caplog, monkeypatch):
    """The command counts unreadable answers and missing predictions, and writes the key nowhere."""

    def behave(body, count):
        prompt = body["messages"][0]["content"]
        return f"No comment. {KEY}" if "human 1" in prompt else prefers_ours(body, count)

    server = serve(behave)
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def lines(name, field, what, events):
        path = tmp_path / name
        rows = [{"video_id": "v", "event_id": i, field: f"{what} {i}"} for i in events]
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
        return str(path)

    out = tmp_path / "out"
    args = [
        "judge", lines("Ours.jsonl", "pred", "ours", range(5)),
        "--baseline", lines("GPT-4o.jsonl", "pred", "theirs", range(6)),
        "--reference", lines("gt.jsonl", "gt_asr", "human", range(6)),
        "--out", str(out), "--endpoint", server.url, "--judge", "judge", "--key-env", "JUDGE_KEY",
        "--first-delay", "0.001", "--price-in", "2", "--price-out", "10",
    ]  # fmt: skip
    assert main(["-v", *args]) == 0
    printed = capsys.readouterr()
    record = json.loads((out / "judge.json").read_text())
    # Six events: one without a prediction, one without readable answers; the others won twice.
    assert record["result"]["headline"]["correct"] == 8
    assert record["result"]["headline"]["count"] == 12
    assert record["events"]["without a prediction"] == 1
    assert record["answers"] == {"new": 10, "from disk": 0, "without a verdict": 2}
    assert record["cost"]["new"] == pytest.approx(10 * (100 * 2 + 3 * 10) / 1e6)
    assert record["judge"]["answered as"] == {"judge-2026-11-01": 10}
    assert len(record["prompt_sha256"]) == 64
    assert "win rate 66.7%" in printed.out
    # The verdicts are in the published layout, which `livecc score` reads.
    assert main(["score", "judge", str(out / "GPT-4o_Ours.jsonl"), "--expected", "6"]) == 0
    assert "win rate 66.7%" in capsys.readouterr().out
    assert main(args) == 0  # only the two unreadable answers are requested again
    assert len(server.bodies) == 12
    assert json.loads((out / "judge.json").read_text())["answers"]["from disk"] == 8
    page = (out / "report.html").read_text()
    assert "win rate 66.7%" in page
    assert record["prompt_sha256"] in page
    assert main(["compare", str(out), str(out)]) == 0
    written = "".join(p.read_text() for p in Path(out).iterdir())
    written += printed.out + printed.err + caplog.text
    assert KEY not in written
