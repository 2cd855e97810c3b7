#!/usr/bin/env bash
# Runs `livecc produce` on a Beam cluster. See docs/produce.md, "On Apache Beam", and --help.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

help() {
    cat <<TEXT
usage: launch_produce.sh COMMAND --image IMAGE [options] -- pretrain|sft SOURCES... --out DIR [options of livecc produce]

  image      build the workers' image and push it
  dataflow   run on Google Dataflow (--project, --region, --bucket)
  flink      run on a Flink cluster (--master host:8081) through Beam's Flink runner
  spark      run on a Spark cluster (--master spark://host:7077) through Beam's Spark runner
  portable   run on a Beam job service that listens already (--master host:8099)

  --image IMAGE      image of the workers, such as REGION-docker.pkg.dev/PROJECT/REPOSITORY/produce
  --project PROJECT  Google Cloud project
  --region REGION    region of the jobs
  --bucket gs://...  folder for staging, and for the files of shards (--exchange)
  --master ADDRESS   the cluster
  --shared           the workers share DIR (NFS, Lustre): no exchange folder is used
  --workers N        most workers (Dataflow), or parallelism (Flink, Spark)
  --print            print the command instead of running it

The machine that runs this script lists the sources, compares all clips and joins the results: it needs
livecc_jax[produce], and stays connected. Run the same command again after any interruption.
TEXT
}

die() {
    echo "launch_produce.sh: $1" >&2
    exit 2
}

command=${1:-}
case $command in
-h | --help | "") help; exit 0 ;;
image | dataflow | flink | spark | portable) shift ;;
*) die "there is no command '$command' (see --help)" ;;
esac

image="" project="" region="" bucket="" master="" workers="" shared="" print=""
while (($#)); do
    case $1 in
    --image | --project | --region | --bucket | --master | --workers)
        (($# > 1)) || die "$1 needs a value"
        printf -v "${1#--}" '%s' "$2"
        shift 2
        ;;
    --shared) shared=1; shift ;;
    --print) print=1; shift ;;
    --) shift; break ;;
    *) die "there is no option '$1' (see --help)" ;;
    esac
done

run() {
    if [[ $print ]]; then
        printf '%q ' "$@"
        echo
    else
        "$@"
    fi
}

[[ $image ]] || die "--image is missing"
if [[ $command == image ]]; then
    run docker build -f "$HERE/launch/produce.Dockerfile" -t "$image" "$HERE"
    run docker push "$image"
    exit 0
fi

(($#)) || die "the arguments of livecc produce are missing, behind --"
beam=()
case $command in
dataflow)
    [[ $project && $region && $bucket ]] || die "dataflow needs --project, --region and --bucket"
    beam+=(--runner DataflowRunner --beam "project=$project" --beam "region=$region")
    beam+=(--beam "temp_location=$bucket/temp" --beam "sdk_container_image=$image")
    beam+=(--beam sdk_location=container --beam experiments=use_runner_v2)
    [[ $workers ]] && beam+=(--beam "max_num_workers=$workers")
    ;;
flink | spark)
    [[ $master ]] || die "$command needs --master"
    runner=FlinkRunner option=flink_master
    if [[ $command == spark ]]; then
        runner=SparkRunner option=spark_master_url
    fi
    beam+=(--runner "$runner" --beam "$option=$master" --beam environment_type=DOCKER)
    beam+=(--beam "environment_config=$image")
    [[ $workers ]] && beam+=(--beam "parallelism=$workers")
    ;;
portable)
    [[ $master ]] || die "portable needs --master"
    beam+=(--runner PortableRunner --beam "job_endpoint=$master" --beam environment_type=DOCKER)
    beam+=(--beam "environment_config=$image")
    ;;
esac
if [[ ! $shared ]]; then
    [[ $bucket ]] || die "name --bucket, or say --shared where the workers share DIR"
    beam+=(--exchange "$bucket/shards")
fi
run livecc produce "$@" "${beam[@]}"
