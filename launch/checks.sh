# shellcheck shell=bash
# Running gcloud or only saying so, and asking it whether all is as it must be.
# Sourced by launch_tpu.sh, which sets what is read here.
# shellcheck disable=SC2154,SC2034

show() { local line; printf -v line '%q ' "$@"; echo "${line% }" >&3; }

# run SENTENCE COMMAND...: the command, or only its text; a failure ends with the sentence.
run() {
    local what=$1 status=0
    shift
    if [[ -n $DRY ]]; then show "$@"; return; fi
    "$@" 3>&- || status=$?
    ((status == 0)) || fail "$what: \`$1 ${*:2:4} ...\` ended with status $status (its own words are above)"
}

# ask EXPECTED SENTENCE COMMAND...: what the command prints; in a dry run, what is expected of it.
ask() {
    local expected=$1
    shift
    if [[ -n $DRY ]]; then show "${@:2}"; echo "$expected"; return; fi
    run "$@"
}

on_workers() { # NODE WORKER TEXT, as words in SSH
    SSH=(gcloud compute tpus tpu-vm ssh "$1" --worker="$2" --command="$3" "${WHERE[@]}" --quiet)
}

# ---- checks

region() { echo "${ZONE%-*}"; }

check_offer() {
    local found
    found=$(ask "$ACCELERATOR" "cannot ask what $ZONE offers" gcloud compute tpus accelerator-types list \
        --filter="type=$ACCELERATOR" --format="value(type)" "${WHERE[@]}") || exit 1
    [[ -n $found ]] || fail "$ZONE does not offer $ACCELERATOR ($TOPOLOGY); \`gcloud compute tpus accelerator-types list --zone=$ZONE\` lists what it has"
}

check_bucket() {
    [[ -n $BUCKET ]] || return 0
    local place
    place=$(ask "$(region)" "cannot ask where bucket $BUCKET is" \
        gcloud storage buckets describe "gs://$BUCKET" --format="value(location)" --project="$PROJECT") || exit 1
    place=${place,,}
    # A multi-region (us, eu, asia) covers the regions that begin with its name.
    [[ $place == "$(region)" || ($place =~ ^(us|asia)$ && $(region) == "$place"-*) || ($place == eu && $(region) == europe-*) ]] ||
        fail "bucket $BUCKET is in $place and the slices are in $(region); checkpoints would cross regions, so take a bucket or a zone of the same region"
}

queue_state() {
    ask ACTIVE "cannot ask for the state of $NAME" gcloud compute tpus queued-resources describe "$NAME" \
        --format="value(state.state)" "${WHERE[@]}"
}

# node_state NODE: "STATE WORKERS"
node_state() {
    ask "READY $WORKERS" "cannot ask for the state of slice $1" gcloud compute tpus tpu-vm describe "$1" \
        --format="value(state,networkEndpoints.len())" "${WHERE[@]}"
}

check_workers() {
    local node state count answer
    for node in $(nodes); do
        answer=$(node_state "$node") || exit 1
        read -r state count <<<"$answer"
        [[ $state == READY ]] || fail "slice $node is $state, not READY; \`launch_tpu.sh restart\` makes it anew"
        ((count == WORKERS)) || fail "slice $node has $count workers, but $TOPOLOGY has $WORKERS; was it created with another --topology?"
    done
}

# on_all SENTENCE MARK TEXT: run a text on every worker of every slice; each must print the mark.
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
            say "a training is running on slice $node already; \`launch_tpu.sh restart\` begins again"
            exit 3
        fi
        count=$(grep -c "^$2" <<<"$answer" || true)
        ((count == WORKERS)) || fail "$1 on slice $node: $count of its $WORKERS workers did"
    done
}

# read_health: sets HEALTH to ready, lost (preempted: to be made anew), moving (wait) or unknown. Only what
# Google says is lost counts as lost: slices must not be deleted because a question failed.
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

# One word for all workers: finished, running, or ended (some have, the others would wait in vain).
read_progress() {
    local node answer all=''
    PROGRESS=unknown
    for node in $(nodes); do
        on_workers "$node" all "$(state_text)"
        answer=$(ask "livecc-state finished" "could not ask the workers of $node" "${SSH[@]}") || return 0
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
