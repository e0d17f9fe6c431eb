#!/usr/bin/env bash
# How training scales on this machine: two processes with one thread each against one process with two threads, the
# same images in a step; the share of the communication that the backward pass hides; the bytes that are sent.
#
#   tools/scaling_check.sh [STEPS]      default 10
#
# Each configuration is run in turns; nothing else should run on the machine (the load is printed). MRB_PROFILE=dev
# builds with cargo's dev profile instead of release.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
steps=${1:-10} rounds=2

tools/setup_libtorch.sh
profile=${MRB_PROFILE:-release}
if [ "$profile" = dev ]; then
    cargo build --bins --tests
    profile=debug
else
    cargo build --profile "$profile" --bin make_shapes --bin launch --bin benchmark
fi
bin=${CARGO_TARGET_DIR:-target}/$profile
data=datasets/shapes_scaling
"$bin/make_shapes" --output "$data" --train 48 --val 8
overrides=(MODEL.DEVICE cpu SOLVER.MAX_ITER 100000 OUTPUT_DIR ""
    DATASETS.TRAIN "('shapes_train=coco:$data/annotations/instances_train.json:$data/train',)")

# GLOO_SOCKET_IFNAME also tells the benchmark whose bytes to count.
export GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo}

compare() {
    local config=$1 images=$2
    shift 2
    local options=(--config-file "$config" --scaling "$steps" --warmup 2 --seed 1
        "$@" SOLVER.IMS_PER_BATCH "$images" "${overrides[@]}")
    for ((round = 1; round <= rounds; round++)); do
        echo
        echo "== $config, $images images a step, round $round, load $(cut -d ' ' -f 1 /proc/loadavg)"
        OMP_NUM_THREADS=2 "$bin/benchmark" "${options[@]}"
        echo
        OMP_NUM_THREADS=1 "$bin/launch" --nproc_per_node 2 benchmark "${options[@]}"
    done
}

# A narrow network, and one of the original's with all of its 178 MB of gradients, on small images.
compare configs/quickstart/mask_rcnn_R2_50_FPN_gn_shapes.yaml 4
compare configs/gn_baselines/scratch_e2e_mask_rcnn_R_50_FPN_3x_gn.yaml 2 \
    INPUT.MIN_SIZE_TRAIN "(256,)" INPUT.MAX_SIZE_TRAIN 256 MODEL.WEIGHT ""
