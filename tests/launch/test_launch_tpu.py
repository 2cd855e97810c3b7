"""launch_tpu.sh against a fake gcloud that records its calls and fails at a chosen one."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

# Answers like healthy slices of four workers; FAIL_AT, STATES and other variables change that.
# With MACHINES set, the scripts for the workers are run, each in a home directory of its own.
GCLOUD = r"""#!/usr/bin/env bash
n=$(($(cat "$LOG.count" 2>/dev/null || echo 0) + 1))
echo $n > "$LOG.count"
{ printf '%q ' gcloud "$@"; echo; } >> "$LOG"
if [ "$n" = "${FAIL_AT:-}" ]; then echo "ERROR: (gcloud) was asked to fail" >&2; exit 1; fi
command=''
for a in "$@"; do case $a in --command=*) command=${a#--command=} ;; esac; done
case "$*" in
*accelerator-types*) echo "${OFFER-v5litepod-16}" ;;
*buckets*) echo "${PLACE-US-WEST4}" ;;
*"queued-resources describe"*)
    line=$(cat "$LOG.queries" 2>/dev/null || echo 0)
    echo $((line + 1)) > "$LOG.queries"
    states=(${STATES:-ACTIVE})
    [ "$line" -lt ${#states[@]} ] || line=$((${#states[@]} - 1))
    echo "${states[$line]}" ;;
*"tpu-vm describe"*) printf '%s\t%s\n' "${NODE:-READY}" "${HOSTS:-4}" ;;
*"tpu-vm ssh"*)
    for w in 0 1 2 3; do
        if [ -n "${MACHINES:-}" ]; then
            mkdir -p "$MACHINES/$5-$w"
            (cd "$MACHINES/$5-$w" && HOME=$PWD bash -c "$command") || exit 1
        else
            [ "$w" -lt "${ANSWERING:-4}" ] || continue
            case $command in
            *livecc-ready) echo livecc-ready ;;
            *livecc-started) echo "${STARTING:-livecc-started}" ;;
            *"livecc-state none"*) echo "livecc-state ${WORKER_STATE:-finished}" ;;
            esac
        fi
    done ;;
esac
"""
SLICE = ["--name", "pod", "--topology", "v5e:4x4", "--zone", "us-west4-a", "--project", "mine"]
SLICE += ["--poll", "0"]
TWO_SLICES = [*SLICE, "--slices", "2"]
TRAIN = ["--", "configs/pretrain_7b.py", "--run", "bucket/my run"]
DESTRUCTIVE = ("queued-resources create", "queued-resources delete", "scp", "ssh")


class Cloud:
    """Runs the script with the fake gcloud first in the path."""

    def __init__(self, home):
        self.home = home
        (home / "bin").mkdir()
        (home / "bin/gcloud").write_text(GCLOUD)
        (home / "bin/gcloud").chmod(0o755)

    def __call__(self, *arguments, **answers):
        for log in self.home.glob("log*"):
            log.unlink()
        env = os.environ | {
            "PATH": f"{self.home / 'bin'}:{os.environ['PATH']}",
            "LOG": str(self.home / "log"),
            "TMPDIR": str(self.home),
        }
        return subprocess.run(
            [ROOT / "launch_tpu.sh", *arguments],
            env=env | {k: str(v) for k, v in answers.items()},
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def calls(self):
        log = self.home / "log"
        return [split_bash(line) for line in log.read_text().split(" \n")[:-1]] if log.exists() else []


def split_bash(line):
    """Splits a line that bash's printf %q wrote, with $'...' words, as bash does."""
    if "$'" not in line:
        return shlex.split(line)
    script = f"printf '%s\\0' {line}"
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout.split("\0")[
        :-1
    ]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


@pytest.mark.parametrize("command", ["up", "restart", "status", "logs", "stop", "watch", "delete"])
def test_dry_run_prints_the_commands_and_runs_none(cloud, command):
    words = [command, *TWO_SLICES, "--spot", "--bucket", "gs://ckpt", *TRAIN]
    dry = cloud(*words[:1], "--dry-run", *words[1:])
    assert dry.returncode == 0, dry.stderr
    assert cloud.calls == []
    printed = [split_bash(line) for line in dry.stdout.splitlines()]
    real = cloud(*words)
    assert real.returncode == 0, real.stderr
    assert [c for c in printed if c[0] == "gcloud"] == cloud.calls
    assert all(c[0] in ("gcloud", "tar") for c in printed)


def test_a_file_that_someone_else_has_put_into_tmp_is_not_written_to(cloud, tmp_path):
    (tmp_path / "mine").write_text("precious")
    (cloud.home / "livecc-pod.tgz").symlink_to(tmp_path / "mine")
    assert cloud("install", *TWO_SLICES).returncode == 0
    assert len([c for c in cloud.calls if "scp" in c]) == 2
    assert (tmp_path / "mine").read_text() == "precious"
    assert not [p for p in cloud.home.iterdir() if p.is_dir() and p.name.startswith("livecc-")]


def test_up_requests_the_slices_and_starts_training(cloud):
    assert cloud("up", *TWO_SLICES, "--spot", "--valid-for", "6h", *TRAIN).returncode == 0
    created = next(c for c in cloud.calls if "create" in c)
    for word in ("--node-count=2", "--node-prefix=pod", "--accelerator-type=v5litepod-16", "--spot",
                 "--valid-until-duration=6h", "--zone=us-west4-a", "--project=mine"):  # fmt: skip
        assert word in created
    assert [c[5] for c in cloud.calls if "scp" in c] == ["livecc-pod.tgz"] * 2
    started = [c for c in cloud.calls if c[-4].endswith("echo livecc-started")]
    assert [c[5] for c in started] == ["pod-0", "pod-1"]
    assert all(c[6] == "--worker=all" for c in started)
    assert r"livecc -v train configs/pretrain_7b.py --run bucket/my\ run" in started[0][7]
    assert cloud("create", *SLICE, "--reserved").returncode == 0
    created = next(c for c in cloud.calls if "create" in c)
    assert "--reserved" in created
    assert "--node-id=pod" in created


def test_a_failure_at_any_call_ends_with_a_sentence(cloud):
    """After it, no call changes anything, except to stop workers that had started."""
    words = ["restart", *TWO_SLICES, *TRAIN]  # lost slices need every kind of call
    answers = {"STATES": "SUSPENDED ACTIVE"}
    assert cloud(*words, **answers).returncode == 0
    calls = cloud.calls
    assert len(calls) > 10
    for at, call in enumerate(calls, 1):
        done = cloud(*words, FAIL_AT=at, **answers)
        assert done.returncode == 1, (at, call)
        assert "ERROR: (gcloud) was asked to fail" in done.stderr
        sentences = [line for line in done.stderr.splitlines() if line.startswith("launch_tpu.sh: ")]
        assert "ended with status 1 (its error message is above)" in done.stderr
        assert sentences
        after = [c for c in cloud.calls[at:] if any(w in " ".join(c) for w in DESTRUCTIVE)]
        if "livecc-started" in call[-4]:
            assert "kill -TERM" in after[0][-4]
        else:
            assert not after, (at, call)


@pytest.mark.parametrize(
    ("words", "answers", "sentence"),
    [
        (["start", *SLICE, *TRAIN], {"HOSTS": 3}, "slice pod has 3 workers, but v5e:4x4 has 4"),
        (["start", *SLICE, *TRAIN], {"NODE": "PREEMPTED"}, "slice pod is PREEMPTED, not READY"),
        (["start", *SLICE, *TRAIN], {"ANSWERING": 3}, "on slice pod: 3 of its 4 workers succeeded"),
        (["start", *SLICE, *TRAIN], {"STARTING": "livecc-busy"}, "is already running on slice pod"),
        (["install", *SLICE], {"ANSWERING": 2}, "install on slice pod: 2 of its 4 workers"),
        (["create", *SLICE], {"OFFER": ""}, "us-west4-a does not offer v5litepod-16 (v5e:4x4)"),
        (["create", *SLICE, "--bucket", "b"], {"PLACE": "EUROPE-WEST4"}, "bucket b is in europe-west4"),
        (["create", *SLICE], {"STATES": "ACCEPTED FAILED"}, "pod is FAILED: the slices were not"),
        (["restart", *SLICE, *TRAIN], {"NODE": "REPAIRING"}, "pod is in transition"),
        (["up", *SLICE], {}, "up needs a training config after --"),
        (["up", "--name", "Pod", *SLICE[2:]], {}, "--name Pod must be lower-case"),
        (["create", *SLICE[:3], "v5p:4x4", *SLICE[4:]], {}, "v5p slices have three sides"),
        (["create", *SLICE[:3], "v9:4x4", *SLICE[4:]], {}, "v9 is not one of v4, v5e, v5p, v6e"),
        (["create", *SLICE[:3], "v5e:32x32", *SLICE[4:]], {}, "a v5e slice has at most 256"),
        (["create", *SLICE[:5], "us-west4", *SLICE[6:]], {}, "needs --zone, such as us-east5-a, not"),
        (["create", *SLICE, "--slices", "two"], {}, "--slices takes a number, not two"),
        (["create", *SLICE, "--hurry", "1"], {}, "there is no option --hurry"),
        (["frobnicate", *SLICE], {}, "frobnicate is not one of: create install start"),
        (["logs", *SLICE, "--worker", "4"], {}, "has 4 workers, numbered from 0"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(cloud, words, answers, sentence):
    done = cloud(*words, **answers)
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    stopped = [c for c in cloud.calls if "kill -TERM" in " ".join(c)]
    assert bool(stopped) == (
        answers.get("ANSWERING") == 3
    )  # workers that started do not wait indefinitely


def test_preempted_slices_are_recreated_and_healthy_ones_are_not(cloud):
    def kinds():
        return [c[4] for c in cloud.calls if c[4] in ("create", "delete", "scp")]

    assert cloud("restart", *SLICE, *TRAIN, STATES="SUSPENDED ACTIVE").returncode == 0
    assert kinds() == ["delete", "create", "scp"]
    assert cloud("restart", *SLICE, *TRAIN).returncode == 0
    assert kinds() == []
    # A failed query must not delete anything.
    assert cloud("restart", *SLICE, *TRAIN, FAIL_AT=1).returncode == 1
    assert kinds() == []
    watched = cloud("watch", *SLICE, *TRAIN, STATES="SUSPENDED SUSPENDED ACTIVE")
    assert watched.returncode == 0
    assert kinds() == ["delete", "create", "scp"]
    assert "the training has finished on every worker" in watched.stderr
    failing = cloud("watch", *SLICE, "--max-restarts", "2", *TRAIN, WORKER_STATE="failed-1")
    assert failing.returncode == 1
    assert "pod was restarted 2 times and has not finished" in failing.stderr


def test_training_starts_stops_and_ends_on_real_shells(cloud, tmp_path):
    """The workers' scripts run on four machines, with a fake livecc that saves on TERM."""
    machines = tmp_path / "machines"
    for w in range(4):
        tool = machines / f"pod-{w}/livecc/.venv/bin/livecc"
        tool.parent.mkdir(parents=True)
        tool.write_text(
            "#!/usr/bin/env bash\necho \"$@\"\n[ ! -f done ] || exit 0\n"
            "trap 'echo saved; exit 143' TERM\nfor i in $(seq 500); do sleep 0.05; done\n"
        )  # fmt: skip
        tool.chmod(0o755)

    def states():
        done = cloud("status", *SLICE, MACHINES=machines)
        return done.stdout.split("livecc-state ")[1:]

    assert states() == ["none\n"] * 4
    assert cloud("start", *SLICE, *TRAIN, MACHINES=machines).returncode == 0
    assert states() == ["running\n"] * 4
    again = cloud("start", *SLICE, *TRAIN, MACHINES=machines)
    assert again.returncode == 1
    assert "`launch_tpu.sh restart` restarts it" in again.stderr
    assert states() == ["running\n"] * 4
    assert cloud("stop", *SLICE, MACHINES=machines).returncode == 0
    assert states() == ["saved\n"] * 4
    for w in range(4):
        (machines / f"pod-{w}/livecc/done").touch()
    assert cloud("watch", *SLICE, *TRAIN, MACHINES=machines).returncode == 0
    assert states() == ["finished\n"] * 4
    log = (machines / "pod-2/livecc/run.log").read_text()
    assert log.splitlines() == ["-v train configs/pretrain_7b.py --run bucket/my run", "saved",
                                "-v train configs/pretrain_7b.py --run bucket/my run"]  # fmt: skip


def test_kubernetes_manifests_describe_the_same_job(cloud):
    words = [*TWO_SLICES, "--spot", "--image", "img:1", "--bucket", "ckpt", *TRAIN, "--x", 'a"b\\']
    manifest = yaml.safe_load(cloud("jobset", *words).stdout)
    job = manifest["spec"]["replicatedJobs"][0]
    pod = job["template"]["spec"]["template"]["spec"]
    assert manifest["kind"] == "JobSet"
    assert job["replicas"] == 2
    assert job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == 4
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    container = pod["containers"][0]
    assert container["command"] == ["livecc", "train", *TRAIN[1:], "--x", 'a"b\\']
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "ckpt"
    xpk = split_bash(cloud("xpk", "--cluster", "c", *words).stdout.strip())
    assert xpk[:3] == ["xpk", "workload", "create"]
    for word in ("--tpu-type=v5litepod-16", "--num-slices=2", "--docker-image=img:1", "--workload=pod"):
        assert word in xpk
    command = next(w for w in xpk if w.startswith("--command="))
    assert split_bash(command.removeprefix("--command=")) == container["command"]
    assert cloud.calls == []
    assert "jobset needs --image" in cloud("jobset", *TWO_SLICES, *TRAIN).stderr


def test_shellcheck():
    tool = shutil.which("shellcheck") or str(Path(sys.executable).parent / "shellcheck")
    scripts = [ROOT / "launch_tpu.sh", *sorted((ROOT / "launch").glob("*.sh"))]
    done = subprocess.run([tool, "-x", *scripts], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
