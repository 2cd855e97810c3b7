# shellcheck shell=bash
# Properties of a slice: its accelerator type, its workers, and its names in Google's products.
# Sourced by launch_tpu.sh, which reads the variables that are set here.
# shellcheck disable=SC2034

# read_topology v5p:4x4x4: sets CHIPS, WORKERS, CHIPS_A_WORKER, ACCELERATOR, RUNTIME_DEFAULT, GKE_NAME,
# GRID. Ends the script with a message if the topology is invalid.
read_topology() {
    local generation=${1%%:*} size=1 side limit
    GRID=${1#*:}
    [[ $1 == *:* && $GRID =~ ^[1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?$ ]] ||
        usage_error "--topology $1 is not of the form v5p:4x4x4"
    local sides=${GRID//[^x]/}
    for side in ${GRID//x/ }; do size=$((size * side)); done
    CHIPS=$size
    case $generation in
    v4 | v5p) [[ $sides == xx ]] || usage_error "--topology $1: $generation slices have three sides, as in $generation:4x4x4" ;;
    v5e | v6e) [[ $sides == x ]] || usage_error "--topology $1: $generation slices have two sides, as in $generation:16x16" ;;
    *) usage_error "--topology $1: $generation is not one of v4, v5e, v5p, v6e" ;;
    esac
    limit=256
    case $generation in
    v4) ACCELERATOR=v4-$((2 * CHIPS)) RUNTIME_DEFAULT=tpu-ubuntu2204-base GKE_NAME=tpu-v4-podslice limit=4096 ;;
    v5p) ACCELERATOR=v5p-$((2 * CHIPS)) RUNTIME_DEFAULT=v2-alpha-tpuv5 GKE_NAME=tpu-v5p-slice limit=6144 ;;
    v5e) ACCELERATOR=v5litepod-$CHIPS RUNTIME_DEFAULT=v2-alpha-tpuv5-lite GKE_NAME=tpu-v5-lite-podslice ;;
    v6e) ACCELERATOR=v6e-$CHIPS RUNTIME_DEFAULT=v2-alpha-tpuv6e GKE_NAME=tpu-v6e-slice ;;
    esac
    ((CHIPS <= limit)) || usage_error "--topology $1 has $CHIPS chips; a $generation slice has at most $limit"
    # A host has four chips; v5e and v6e also come as one host with 1, 4 or 8.
    CHIPS_A_WORKER=4
    if [[ $generation == v5e || $generation == v6e ]] && ((CHIPS <= 8)); then CHIPS_A_WORKER=$CHIPS; fi
    ((CHIPS % CHIPS_A_WORKER == 0)) || usage_error "--topology $1 has $CHIPS chips, which do not fill hosts of 4"
    WORKERS=$((CHIPS / CHIPS_A_WORKER))
}

# Prints the node names of the queued resource: NAME, or NAME-0, NAME-1, ... for several slices.
nodes() {
    local i
    if ((SLICES == 1)); then
        echo "$NAME"
    else
        for ((i = 0; i < SLICES; i++)); do echo "$NAME-$i"; done
    fi
}
