# shellcheck shell=bash
# Prints the scripts that run on the workers, for `gcloud ... ssh --command`.
# Sourced by launch_tpu.sh, which sets the variables that are read here.
# shellcheck disable=SC2154

# Markers by which launch_tpu.sh counts the workers that answered.
READY=livecc-ready
STARTED=livecc-started
BUSY=livecc-busy

install_text() {
    cat <<TEXT
set -e
if ! command -v python3.12 >/dev/null && ! command -v python3.11 >/dev/null; then
    sudo apt-get -o DPkg::Lock::Timeout=600 update -q
    sudo apt-get -o DPkg::Lock::Timeout=600 install -qy python3.11 python3.11-venv
fi
rm -rf livecc.new && mkdir livecc.new && tar xzf livecc.tgz -C livecc.new
mkdir -p livecc && cp -r livecc.new/. livecc/ && cd livecc
[ -x .venv/bin/python ] || "\$(command -v python3.12 || command -v python3.11)" -m venv .venv
.venv/bin/pip install -q '.[tpu]'
.venv/bin/livecc --version
TEXT
    if [[ -n $BUCKET ]]; then
        cat <<TEXT
if ! command -v gcsfuse >/dev/null; then
    curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null
    echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list
    sudo apt-get -o DPkg::Lock::Timeout=600 update -q
    sudo apt-get -o DPkg::Lock::Timeout=600 install -qy gcsfuse
fi
mkdir -p ~/livecc/bucket
mountpoint -q ~/livecc/bucket || gcsfuse --implicit-dirs --rename-dir-limit 1000000 '$BUCKET' ~/livecc/bucket
TEXT
    fi
    echo "echo $READY"
}

# run.sh waits for the training and writes its exit status to run.exit.
start_text() {
    local command
    printf -v command '%q ' "${TRAIN[@]}"
    cat <<TEXT
cd livecc || exit 1
if [ -f run.pid ] && [ ! -f run.exit ] && kill -0 "\$(cat run.pid)" 2>/dev/null; then
    echo $BUSY && exit 0
fi
rm -f run.exit
cat > run.sh <<'END'
trap : TERM
.venv/bin/livecc -v train ${command% }
echo \$? > run.exit
END
nohup setsid bash run.sh >> run.log 2>&1 < /dev/null &
echo \$! > run.pid
echo $STARTED
TEXT
}

# TERM lets the run save a checkpoint; processes that remain after ten minutes are killed.
stop_text() {
    cat <<'TEXT'
cd livecc 2>/dev/null || exit 0
[ -f run.pid ] || exit 0
pid=$(cat run.pid)
# Only the training process: it needs its data workers until it has saved.
pkill -TERM -P "$pid" || exit 0
for _ in $(seq 3000); do [ -f run.exit ] || ! kill -0 "$pid" 2>/dev/null && exit 0; sleep 0.2; done
kill -KILL -- "-$pid"
TEXT
}

# Prints the state of the worker: finished, running, saved, failed-N or none.
state_text() {
    cat <<'TEXT'
cd livecc 2>/dev/null || { echo livecc-state none; exit 0; }
if [ -f run.exit ]; then
    case $(cat run.exit) in
    0) echo livecc-state finished ;;
    143) echo livecc-state saved ;;
    *) echo "livecc-state failed-$(cat run.exit)" ;;
    esac
elif [ -f run.pid ] && kill -0 "$(cat run.pid)" 2>/dev/null; then echo livecc-state running
else echo livecc-state none
fi
TEXT
}

logs_text() {
    echo "tail -n $LINES_SHOWN ${FOLLOW:+-F }livecc/run.log"
}
