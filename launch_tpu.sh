#!/usr/bin/env bash
# Launches training on Cloud TPU slices and keeps it running. See docs/pods.md and --help.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/slices.sh
source "$HERE/launch/slices.sh"
# shellcheck source=launch/checks.sh
source "$HERE/launch/checks.sh"
# shellcheck source=launch/remote.sh
source "$HERE/launch/remote.sh"
# shellcheck source=launch/kubernetes.sh
source "$HERE/launch/kubernetes.sh"

COMMANDS="create install start up logs status stop restart watch delete jobset xpk"

help() {
    cat <<TEXT
usage: launch_tpu.sh COMMAND --name NAME --topology v5p:4x4x4 --zone ZONE [options] [-- CONFIG [--field value ...]]

  create    request the slices as a queued resource and wait until they are active
  install   copy this checkout to every worker and install it
  start     start \`livecc train CONFIG ...\` on every worker
  up        create, install and start
  logs      show a worker's log (--follow streams it)
  status    show the state of the queued resource, of every slice and of each worker's training
  stop      let the training save a checkpoint, and end it
  restart   resume from the newest checkpoint; lost slices are recreated
  watch     restart after every preemption or crash until the training has finished
  delete    delete the slices
  jobset    print a Kubernetes JobSet manifest for the same job
  xpk       print the xpk command for the same job

  --name NAME           name of the queued resource; its slices are NAME, or NAME-0, NAME-1, ...
  --topology T          topology of one slice, as \`livecc plan\` takes it: v4:4x4x4 v5p:4x4x8 v5e:16x16 v6e:8x8
  --slices N            number of slices (1)
  --zone ZONE           zone of the slices
  --project PROJECT     Google Cloud project (default: that of gcloud)
  --spot | --reserved   provisioning model (on demand)
  --valid-for 6h        cancel the request if the slices are not active by then
  --runtime VERSION     image of the TPU machines (that of the generation)
  --bucket NAME         bucket in the same region, mounted by install at livecc/bucket on every worker
  --worker N            worker whose log is shown (0)
  --slice N             slice of that worker (0)
  --lines N             number of log lines (100)
  --follow              stream the log
  --poll SECONDS        polling interval while waiting (30)
  --max-restarts N      maximum number of restarts of watch, jobset and xpk (100)
  --image IMAGE         container image, for jobset and xpk
  --cluster CLUSTER     GKE cluster, for xpk
  --dry-run             print every command that would run, and run none
TEXT
}

say() { echo "launch_tpu.sh: $*" >&2; }
fail() { say "$*"; exit 1; }
usage_error() { say "$*"; exit 2; }

NAME='' TOPOLOGY='' ZONE='' PROJECT='' PROVISIONING=demand VALID_FOR='' RUNTIME='' BUCKET=''
SLICES=1 WORKER=0 SLICE=0 LINES_SHOWN=100 FOLLOW='' POLL=30 MAX_RESTARTS=100 IMAGE='' CLUSTER='' DRY=''
TRAIN=()

parse() {
    [[ $# -gt 0 ]] || { help >&2; exit 2; }
    case $1 in -h | --help | help) help; exit 0 ;; esac
    COMMAND=$1
    [[ " $COMMANDS " == *" $COMMAND "* ]] || usage_error "$COMMAND is not one of: $COMMANDS"
    shift
    local option
    while [[ $# -gt 0 ]]; do
        option=$1
        shift
        case $option in
        --) TRAIN=("$@"); break ;;
        --spot) PROVISIONING=spot; continue ;;
        --reserved) PROVISIONING=reserved; continue ;;
        --dry-run) DRY=1; continue ;;
        --follow) FOLLOW=1; continue ;;
        -h | --help) help; exit 0 ;;
        --*=*) set -- "${option#*=}" "$@"; option=${option%%=*} ;;
        esac
        [[ $# -gt 0 ]] || usage_error "$option has no value"
        case $option in
        --name) NAME=$1 ;;
        --topology) TOPOLOGY=$1 ;;
        --slices) SLICES=$1 ;;
        --zone) ZONE=$1 ;;
        --project) PROJECT=$1 ;;
        --valid-for) VALID_FOR=$1 ;;
        --runtime) RUNTIME=$1 ;;
        --bucket) BUCKET=${1#gs://}; BUCKET=${BUCKET%/} ;;
        --worker) WORKER=$1 ;;
        --slice) SLICE=$1 ;;
        --lines) LINES_SHOWN=$1 ;;
        --poll) POLL=$1 ;;
        --max-restarts) MAX_RESTARTS=$1 ;;
        --image) IMAGE=$1 ;;
        --cluster) CLUSTER=$1 ;;
        *) usage_error "there is no option $option; see launch_tpu.sh --help" ;;
        esac
        shift
    done
    local pair
    for pair in "--slices $SLICES" "--worker $WORKER" "--slice $SLICE" "--lines $LINES_SHOWN" \
        "--poll $POLL" "--max-restarts $MAX_RESTARTS"; do
        [[ ${pair#* } =~ ^[0-9]+$ ]] || usage_error "${pair% *} takes a number, not ${pair#* }"
    done
    ((SLICES >= 1)) || usage_error "--slices must be at least 1"
    [[ -n $NAME ]] || usage_error "$COMMAND needs --name"
    [[ $NAME =~ ^[a-z]([-a-z0-9]{0,37}[a-z0-9])?$ ]] ||
        usage_error "--name $NAME must be lower-case letters, digits and dashes, begin with a letter and have at most 39 characters"
    [[ -n $TOPOLOGY ]] || usage_error "$COMMAND needs --topology, such as v5p:4x4x4"
    read_topology "$TOPOLOGY"
    case $COMMAND in
    jobset) ;;
    *) [[ $ZONE =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] || usage_error "$COMMAND needs --zone, such as us-east5-a${ZONE:+, not $ZONE}" ;;
    esac
    case $COMMAND in
    start | up | restart | watch | jobset | xpk)
        ((${#TRAIN[@]})) || usage_error "$COMMAND needs a training config after --, such as -- configs/pretrain_7b.py --run bucket/run"
        ;;
    esac
    ((WORKER < WORKERS)) || usage_error "--worker $WORKER: a slice of $TOPOLOGY has $WORKERS workers, numbered from 0"
    ((SLICE < SLICES)) || usage_error "--slice $SLICE: there are $SLICES slices, numbered from 0"
    if [[ -z $PROJECT && $COMMAND != jobset ]]; then
        PROJECT=$(gcloud config get-value project 2>/dev/null) || PROJECT=''
        [[ -n $PROJECT && $PROJECT != "(unset)" ]] || usage_error "no project: give --project, or set one in gcloud"
    fi
    WHERE=(--zone="$ZONE" --project="$PROJECT")
}

# ---- commands

create() {
    check_offer
    check_bucket
    local arguments=("$NAME")
    if ((SLICES == 1)); then
        arguments+=(--node-id="$NAME")
    else
        arguments+=(--node-count="$SLICES" --node-prefix="$NAME")
    fi
    arguments+=(--accelerator-type="$ACCELERATOR" --runtime-version="${RUNTIME:-$RUNTIME_DEFAULT}")
    case $PROVISIONING in spot) arguments+=(--spot) ;; reserved) arguments+=(--reserved) ;; esac
    [[ -z $VALID_FOR ]] || arguments+=(--valid-until-duration="$VALID_FOR")
    run "could not request $SLICES x $TOPOLOGY in $ZONE" \
        gcloud compute tpus queued-resources create "${arguments[@]}" "${WHERE[@]}" --quiet
    wait_until_active
    check_workers
}

wait_until_active() {
    local state last=''
    while true; do
        state=$(queue_state) || exit 1
        [[ -n $DRY || $state == "$last" ]] || say "$NAME is $state"
        last=$state
        case $state in
        ACTIVE) return ;;
        FAILED | SUSPENDED | SUSPENDING | DELETING)
            fail "$NAME is $state: the slices were not provisioned; \`gcloud compute tpus queued-resources describe $NAME --zone=$ZONE\` says why" ;;
        esac
        sleep "$POLL"
    done
}

install() {
    check_bucket
    check_workers
    local node folder=. bundle=livecc-$NAME.tgz
    # A folder of its own: a file of a known name in /tmp may be a link that someone else has put there.
    [[ -n $DRY ]] || folder=$(mktemp -d "${TMPDIR:-/tmp}/livecc-XXXXXXXX") || fail "could not make a temporary folder"
    (
        trap '[[ $folder == . ]] || rm -rf "$folder"' EXIT
        cd "$folder"
        run "could not pack this checkout" tar czf "$bundle" -C "$HERE" --exclude=__pycache__ \
            livecc_jax configs setup.py pyproject.toml README.md LICENSE
        for node in $(nodes); do
            run "could not copy the code to slice $node" \
                gcloud compute tpus tpu-vm scp "$bundle" "$node:livecc.tgz" --worker=all "${WHERE[@]}" --quiet
        done
    ) || exit 1
    on_all "could not install" "$READY" "$(install_text)"
}

start() {
    check_workers
    # A run that started on only some workers would wait for the others indefinitely.
    local status=0
    (on_all "could not start" "$STARTED" "$(start_text)") || status=$?
    ((status != 3)) || exit 1
    if ((status != 0)); then
        say "stopping the workers that started"
        (stop) || true
        exit 1
    fi
}

stop() { on_all "could not stop" "" "$(stop_text)"; }

logs() {
    local node
    node=$(nodes | sed -n "$((SLICE + 1))p")
    on_workers "$node" "$WORKER" "$(logs_text)"
    run "could not read the log of worker $WORKER of $node" "${SSH[@]}"
}

status() {
    local node state
    state=$(queue_state) || exit 1
    [[ -n $DRY ]] || say "$NAME ($SLICES x $TOPOLOGY, $ZONE) is $state"
    for node in $(nodes); do
        state=$(node_state "$node") || exit 1
        [[ -n $DRY ]] || say "slice $node: ${state//$'\t'/ } workers of $WORKERS"
    done
    on_all "could not read the state of the workers" livecc-state "$(state_text)"
}

restart() {
    read_health
    case $HEALTH in
    ready) stop ;;
    lost)
        say "$NAME has lost a slice: recreating it"
        delete
        create
        install
        ;;
    moving) fail "$NAME is in transition (launch_tpu.sh status shows its state); try again later" ;;
    *) fail "$NAME was not changed, because its state is unknown" ;;
    esac
    start
}

watch() {
    local restarts=0
    while true; do
        read_health
        PROGRESS=unknown
        [[ $HEALTH != ready ]] || read_progress
        if [[ $PROGRESS == finished ]]; then
            [[ -n $DRY ]] || say "the training has finished on every worker"
            return
        fi
        if [[ $HEALTH == lost || $PROGRESS == ended ]]; then
            ((restarts < MAX_RESTARTS)) || fail "$NAME was restarted $restarts times and has not finished; \`launch_tpu.sh logs\` shows why"
            restarts=$((restarts + 1))
            say "restart $restarts of at most $MAX_RESTARTS"
            # A restart that fails (no capacity, a lost connection) is retried like any other.
            (set -e; restart) || say "the restart failed"
        fi
        sleep "$POLL"
    done
}

delete() {
    run "could not delete $NAME" \
        gcloud compute tpus queued-resources delete "$NAME" --force "${WHERE[@]}" --quiet
}

exec 3>&1
parse "$@"
case $COMMAND in
up) create; install; start ;;
jobset) print_jobset ;;
xpk) print_xpk ;;
*) "$COMMAND" ;;
esac
