# shellcheck shell=bash
# Runs gcloud commands, or prints them in a dry run, and checks the state of the slices.
# Sourced by launch_tpu.sh, which sets the variables that are read here.
# shellcheck disable=SC2154,SC2034

show() { local line; printf -v line '%q ' "$@"; echo "${line% }" >&3; }

# run MESSAGE COMMAND...: runs the command, or prints it in a dry run; a failure ends the script with MESSAGE.
run() {
    local what=$1 status=0
    shift
    if [[ -n $DRY ]]; then show "$@"; return; fi
    "$@" 3>&- || status=$?
    ((status == 0)) || fail "$what: \`$1 ${*:2:4} ...\` ended with status $status (its error message is above)"
}

# ask EXPECTED MESSAGE COMMAND...: prints the output of the command; in a dry run, prints EXPECTED.
ask() {
    local expected=$1
    shift
    if [[ -n $DRY ]]; then show "${@:2}"; echo "$expected"; return; fi
    run "$@"
}

on_workers() { # NODE WORKER SCRIPT: sets SSH to the command that runs SCRIPT on a worker
    SSH=(gcloud compute tpus tpu-vm ssh "$1" --worker="$2" --command="$3" "${WHERE[@]}" --quiet)
}

# ---- checks

region() { echo "${ZONE%-*}"; }

check_offer() {
    local offered
    offered=$(ask "$ACCELERATOR" "cannot list the accelerator types of $ZONE" gcloud compute tpus accelerator-types list \
        --filter="type=$ACCELERATOR" --format="value(type)" "${WHERE[@]}") || exit 1
    [[ -n $offered ]] || fail "$ZONE does not offer $ACCELERATOR ($TOPOLOGY); \`gcloud compute tpus accelerator-types list --zone=$ZONE\` lists what it offers"
}

check_bucket() {
    [[ -n $BUCKET ]] || return 0
    local place
    place=$(ask "$(region)" "cannot read the location of bucket $BUCKET" \
        gcloud storage buckets describe "gs://$BUCKET" --format="value(location)" --project="$PROJECT") || exit 1
    place=${place,,}
    # A multi-region (us, eu, asia) covers the regions that begin with its name.
    [[ $place == "$(region)" || ($place =~ ^(us|asia)$ && $(region) == "$place"-*) || ($place == eu && $(region) == europe-*) ]] ||
        fail "bucket $BUCKET is in $place and the slices are in $(region); checkpoints would cross regions, so choose a bucket and a zone in one region"
}

queue_state() {
    ask ACTIVE "cannot read the state of $NAME" gcloud compute tpus queued-resources describe "$NAME" \
        --format="value(state.state)" "${WHERE[@]}"
}

# node_state NODE: prints "STATE WORKERS"
node_state() {
    ask "READY $WORKERS" "cannot read the state of slice $1" gcloud compute tpus tpu-vm describe "$1" \
        --format="value(state,networkEndpoints.len())" "${WHERE[@]}"
}

check_workers() {
    local node state count answer
    for node in $(nodes); do
        answer=$(node_state "$node") || exit 1
        read -r state count <<<"$answer"
        [[ $state == READY ]] || fail "slice $node is $state, not READY; \`launch_tpu.sh restart\` recreates it"
        ((count == WORKERS)) || fail "slice $node has $count workers, but $TOPOLOGY has $WORKERS; was it created with another --topology?"
    done
}

# on_all MESSAGE MARKER SCRIPT: runs SCRIPT on every worker of every slice; each must print MARKER.
on_all() {
    local node answer count
    for node in $(nodes); do
        on_workers "$node" all "$3"
        if [[ -n $DRY ]]; then show "${SSH[@]}"; continue; fi
        answer=$(run "$1 on slice $node" "${SSH[@]}") || exit 1
        [[ -z $answer ]] || echo "$answer"
        [[ -n $2 ]] || continue
        count=$(grep -c "^$BUSY" <<<"$answer" || true)
        if ((count == WORKERS)); then
            say "a training run is already running on slice $node; \`launch_tpu.sh restart\` restarts it"
            exit 3
        fi
        count=$(grep -c "^$2" <<<"$answer" || true)
        ((count == WORKERS)) || fail "$1 on slice $node: $count of its $WORKERS workers succeeded"
    done
}

# read_health: sets HEALTH to ready, lost (preempted, to be recreated), moving (in transition, wait) or
# unknown. A slice counts as lost only if Google reports so: a failed query must not delete slices.
read_health() {
    local state node answer
    HEALTH=unknown
    state=$(queue_state) || return 0
    case $state in
    ACTIVE) ;;
    SUSPENDED | SUSPENDING | FAILED) HEALTH=lost; return 0 ;;
    *) HEALTH=moving; return 0 ;;
    esac
    for node in $(nodes); do
        answer=$(node_state "$node") || return 0
        case $answer in
        READY*) ;;
        PREEMPTED* | TERMINATED* | STOPPED*) HEALTH=lost; return 0 ;;
        *) HEALTH=moving; return 0 ;;
        esac
    done
    HEALTH=ready
}

# read_progress: sets PROGRESS to finished, running, ended (the run ended on some workers, for which the
# others would wait indefinitely) or unknown.
read_progress() {
    local node answer all=''
    PROGRESS=unknown
    for node in $(nodes); do
        on_workers "$node" all "$(state_text)"
        answer=$(ask "livecc-state finished" "could not read the state of the workers of $node" "${SSH[@]}") || return 0
        all+=$answer$'\n'
    done
    all=$(grep '^livecc-state' <<<"$all" || true)
    if [[ -z $all ]]; then return 0; fi
    PROGRESS=running
    if ! grep -qv finished <<<"$all"; then
        PROGRESS=finished
    elif grep -q '^livecc-state \(failed\|saved\|none\)' <<<"$all"; then
        PROGRESS=ended
    fi
}
