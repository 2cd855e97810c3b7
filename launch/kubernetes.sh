# shellcheck shell=bash
# Prints the same job for Kubernetes: a JobSet manifest, or the xpk command that creates one.
# Sourced by launch_tpu.sh, which sets the variables that are read here.
# shellcheck disable=SC2154

# yaml TEXT: prints the text as a double-quoted YAML string.
yaml() {
    local text=${1//\\/\\\\}
    printf '"%s"' "${text//\"/\\\"}"
}

print_jobset() {
    [[ -n $IMAGE ]] || usage_error "jobset needs --image, a container with livecc_jax installed"
    local argument spot='' list='' annotations='' mounts='' volumes=''
    for argument in livecc train "${TRAIN[@]}"; do list+="${list:+, }$(yaml "$argument")"; done
    if [[ $PROVISIONING == spot ]]; then
        spot=$'\n                cloud.google.com/gke-spot: "true"'
    fi
    if [[ -n $BUCKET ]]; then
        annotations=$'\n            metadata:\n              annotations:\n                gke-gcsfuse/volumes: "true"'
        mounts=$'\n                  volumeMounts:\n                    - name: bucket\n                      mountPath: /bucket'
        volumes=$'\n              volumes:\n                - name: bucket\n                  csi:\n                    driver: gcsfuse.csi.storage.gke.io'
        volumes+=$'\n                    volumeAttributes:\n                      bucketName: '$BUCKET
        volumes+=$'\n                      mountOptions: "implicit-dirs,rename-dir-limit=1000000"'
    fi
    # backoffLimit 0: a lost host fails its job, and the JobSet then restarts all slices together.
    # The grace period leaves time to save a checkpoint between SIGTERM and SIGKILL.
    cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $NAME
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $MAX_RESTARTS
  replicatedJobs:
    - name: slice
      replicas: $SLICES
      template:
        spec:
          parallelism: $WORKERS
          completions: $WORKERS
          completionMode: Indexed
          backoffLimit: 0
          template:$annotations
            spec:
              restartPolicy: Never
              hostNetwork: true
              dnsPolicy: ClusterFirstWithHostNet
              terminationGracePeriodSeconds: 300
              nodeSelector:
                cloud.google.com/gke-tpu-accelerator: $GKE_NAME
                cloud.google.com/gke-tpu-topology: $GRID$spot
              containers:
                - name: livecc
                  image: $IMAGE
                  command: [$list]
                  ports:
                    - containerPort: 8471
                    - containerPort: 8080
                  resources:
                    limits:
                      google.com/tpu: $CHIPS_A_WORKER$mounts$volumes
YAML
}

print_xpk() {
    [[ -n $IMAGE ]] || usage_error "xpk needs --image, a container with livecc_jax installed"
    [[ -n $CLUSTER ]] || usage_error "xpk needs --cluster, the name of the GKE cluster"
    local inner
    printf -v inner '%q ' livecc train "${TRAIN[@]}"
    printf '%q ' xpk workload create --cluster="$CLUSTER" --workload="$NAME" --tpu-type="$ACCELERATOR" \
        --num-slices="$SLICES" --docker-image="$IMAGE" --max-restarts="$MAX_RESTARTS" \
        --command="${inner% }" --project="$PROJECT" --zone="$ZONE"
    echo
}
