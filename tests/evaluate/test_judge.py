"""The judge, against a real server on this machine that misbehaves in every way it can."""

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
from livecc_jax.evaluate.judge.endpoint import Endpoint, EndpointError, NoAnswer, Patience
from livecc_jax.evaluate.judge.judge import PROMPT, Cache, Case, fill, judge, read_prompt, verdict

LATE = object()
KEY = "sk-very-secret"
QUICK = Patience(retries=4, first_delay=0.001, longest_delay=0.002, timeout=60)


class Server(http.server.ThreadingHTTPServer):
    """Answers by `behave(body, count)`: a text, (status, body), or LATE for no answer at all."""

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
        told = self.server.behave(body, count)
        if told is LATE:
            self.server.closing.wait()
            return
        status, raw = told if isinstance(told, tuple) else (200, completion(told))
        if isinstance(raw, str):
            raw = raw.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        with contextlib.suppress(OSError):  # the client may have waited long enough
            self.wfile.write(raw)

    def log_message(self, *args):
        pass


def completion(said):
    return json.dumps(
        {
            "model": "judge-2026-11-01",
            "choices": [{"message": {"role": "assistant", "content": said}}],
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
    told = {
        "Commentary A": "a",
        "**Commentary B**.": "b",
        "Commentary B is better aligned than Commentary A": "b",
        "Commentary A is clearly closer; Commentary B is not": "a",
        "B": "b",
        "tie": "tie",
        "Both Commentary A and Commentary B are fine": None,
        "I cannot help with that": None,
    }
    assert {said: verdict(said) for said in told} == told
    filled = fill(PROMPT, "{human}", "b {commentary_a}", "h")
    assert "[Commentary A]\n{human}\n" in filled
    assert "b {commentary_a}" in filled
    assert read_prompt(None) == PROMPT
    short = tmp_path / "prompt.txt"
    short.write_text("{commentary_a} or {human}?")
    with pytest.raises(ConfigError, match="commentary_b"):
        read_prompt(short)


def test_every_fault_is_waited_out(serve):
    """429, 500, nonsense, empty: each once, then an answer."""
    parts = [
        (429, "slow down"),
        (500, f"oh no {KEY}"),
        (200, "<html>nonsense</html>"),
        "",
        "Commentary B",
    ]
    server = serve(lambda body, count: parts[count - 1])
    endpoint = Endpoint(server.url, "judge", KEY, patience=QUICK)
    reply = endpoint.ask("?")
    assert (reply.text, reply.model, reply.tokens_in) == ("Commentary B", "judge-2026-11-01", 100)
    assert endpoint.faults == Counter(
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
    server = serve(lambda body, count: LATE)
    endpoint = Endpoint(server.url, "judge", patience=Patience(1, 0.001, 0.001, 0.1))
    with pytest.raises(NoAnswer, match="timeout"):
        endpoint.ask("?")
    assert endpoint.faults == {"timeout": 2}


def test_what_is_not_retried(serve):
    """A wrong key ends everything with one sentence, without the key; one refusal ends one request."""
    server = serve(lambda body, count: (401, f"Incorrect key {KEY}"))
    with pytest.raises(EndpointError, match=r"401.*\[key\]") as caught:
        Endpoint(server.url, "judge", KEY, patience=QUICK).ask("?")
    assert KEY not in str(caught.value)
    assert len(server.bodies) == 1
    server = serve(lambda body, count: (400, "content filter"))
    with pytest.raises(NoAnswer, match="400"):
        Endpoint(server.url, "judge", KEY, patience=QUICK).ask("?")
    assert len(server.bodies) == 1
    silent = Endpoint("http://127.0.0.1:9/v1", "judge", patience=QUICK)
    with pytest.raises(NoAnswer, match="connection"):
        silent.ask("?")
    assert silent.faults["connection"] == QUICK.retries + 1
    with pytest.raises(ConfigError):
        Endpoint("ftp://user:secret@host", "judge")
    assert "secret" not in Endpoint("http://u:secret@host/v1?k=secret", "judge").address


def test_the_rate_is_kept(serve):
    server = serve(lambda body, count: "Commentary A")
    endpoint = Endpoint(server.url, "judge", patience=QUICK, per_minute=60 / 0.05)
    began = time.monotonic()
    for _ in range(4):
        endpoint.ask("?")
    assert time.monotonic() - began >= 0.15


CASES = [Case(f"v_{i}", f"ours {i}", f"theirs {i}", f"human {i}") for i in range(6)]


def prefers_ours(body, count):
    """Ours, wherever it stands, but for event 5: there always the first."""
    asked = body["messages"][0]["content"]
    if "human 5" in asked:
        return "Commentary A"
    return "Commentary A" if asked.index("ours") < asked.index("theirs") else "Commentary B"


def test_both_orders_and_a_cache(serve, tmp_path):
    """Nothing is asked twice: not by a second run, not after a kill that cut the last line."""
    server = serve(prefers_ours)

    def run(cases=CASES, prompt=PROMPT):
        cache = Cache(tmp_path / "answers.jsonl")
        endpoint = Endpoint(server.url, "judge", KEY, patience=QUICK)
        found = judge(cases, endpoint, prompt, cache, ("Ours", "Theirs"), workers=3)
        cache.close()
        return found

    first = run()
    assert [r["ab_winner"] for r in first.rows] == ["Ours"] * 6
    assert [r["ba_winner"] for r in first.rows] == ["Ours"] * 5 + ["Theirs"]
    assert (first.asked, first.cached, first.tokens_in) == (12, 0, 1200)
    again = run()
    assert again.rows == first.rows
    assert (again.asked, again.cached, again.tokens_in, again.all_tokens_in) == (0, 12, 0, 1200)
    whole = (tmp_path / "answers.jsonl").read_text()
    (tmp_path / "answers.jsonl").write_text(whole[:-40])
    assert (run().asked, run().asked) == (1, 0)
    assert run(prompt=PROMPT + "\n").asked == 12  # another prompt, other answers
    changed = [*CASES[:5], Case("v_5", "ours other", "theirs 5", "human 5")]
    assert run(changed).asked == 2
    assert len(server.bodies) == 12 + 1 + 12 + 2


def test_a_dead_endpoint_ends_the_run_and_keeps_what_was_answered(serve, tmp_path):
    server = serve(lambda body, count: "Commentary A" if count <= 3 else (503, "down"))
    cache = Cache(tmp_path / "answers.jsonl")
    endpoint = Endpoint(server.url, "judge", patience=Patience(1, 0.001, 0.001, 60))
    cases = [Case(f"v_{i}", "a", "b", f"h {i}") for i in range(40)]
    with pytest.raises(EndpointError, match="in a row"):
        judge(cases, endpoint, PROMPT, cache, ("A", "B"), workers=1)
    cache.close()
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 3


def test_from_files_to_a_win_rate(serve, tmp_path, capsys, caplog, monkeypatch):
    """The command: unreadable answers and missing predictions are counted, and no file has the key."""

    def behave(body, count):
        asked = body["messages"][0]["content"]
        return f"No comment. {KEY}" if "human 1" in asked else prefers_ours(body, count)

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
    # The published layout, which scoring reads again.
    assert main(["score", "judge", str(out / "GPT-4o_Ours.jsonl"), "--expected", "6"]) == 0
    assert "win rate 66.7%" in capsys.readouterr().out
    assert main(args) == 0  # only the two unreadable ones are asked again
    assert len(server.bodies) == 12
    assert json.loads((out / "judge.json").read_text())["answers"]["from disk"] == 8
    page = (out / "report.html").read_text()
    assert "win rate 66.7%" in page
    assert record["prompt_sha256"] in page
    assert main(["compare", str(out), str(out)]) == 0
    written = "".join(p.read_text() for p in Path(out).iterdir())
    written += printed.out + printed.err + caplog.text
    assert KEY not in written
