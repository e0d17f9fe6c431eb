#!/usr/bin/env bash
# The launchers of PyTorch start our programs: torchrun, torch.distributed.launch, restarts, errors.
#
#   MRB_PYTHON=/path/to/python tools/launchers_check.sh
#
# MRB_PYTHON names a Python with torch 2.11; without it nothing is checked. MRB_PROFILE=dev builds with cargo's dev
# profile instead of release. Every run must end with the same checkpoint, byte by byte, as that of our own `launch`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${MRB_PYTHON:-}
if ! version=$("${python:-/nonexistent}" -c 'import torch; print(torch.__version__)' 2>/dev/null); then
    echo "SKIPPED: MRB_PYTHON (${python:-not set}) is no Python that can import torch"
    exit 0
fi
torchrun=("$(dirname "$python")/torchrun")
[ -x "${torchrun[0]}" ] || torchrun=("$python" -m torch.distributed.run)

profile=${MRB_PROFILE:-release}
if [ "$profile" = dev ]; then
    cargo build --bins --tests
    profile=debug
else
    cargo build --profile "$profile" --bin make_shapes --bin train_net --bin test_net --bin launch
fi
bin=${CARGO_TARGET_DIR:-$PWD/target}/$profile

work=$(mktemp -d)
launcher=
trap '[ -z "$launcher" ] || kill "$launcher" 2>/dev/null || true; rm -rf "$work"' EXIT
"$bin/make_shapes" --output "$work/shapes" --train 40 --val 3 >"$work/shapes.log"
export OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-lo}

# Options before the configuration's, then the output folder.
arguments() {
    local output=$1
    shift
    printf '%s\n' --seed 5 --dist-timeout 120 "$@" --config-file tests/programs/tiny.yaml OUTPUT_DIR "$output" \
        DATASETS.TRAIN "('shapes_train=coco:$work/shapes/annotations/instances_train.json:$work/shapes/train',)" \
        DATASETS.TEST "('shapes_val=coco:$work/shapes/annotations/instances_val.json:$work/shapes/val',)" \
        SOLVER.MAX_ITER 60 SOLVER.CHECKPOINT_PERIOD 1000
}

failures=0
result() {
    local name=$1
    shift
    if "$@"; then
        echo "PASS: $name"
    else
        echo "FAIL: $name"
        grep -v "^ *[A-Z_]*:" "$work/log" | tail -n 20 | sed 's/^/    /'
        failures=$((failures + 1))
    fi
}
same_checkpoint() { cmp -s "$work/launch/model_final.pth" "$work/$1/model_final.pth"; }
trains() {
    local name=$1
    shift
    mapfile -t args < <(arguments "$work/$name" --skip-test)
    "$@" "${args[@]}" >"$work/log" 2>&1
}
trains_alike() { trains "$@" && same_checkpoint "$1"; }

echo "torch $version, programs in $bin"
result "launch" trains launch "$bin/launch" --nproc_per_node 2 train_net
result "torchrun --no-python" trains_alike torchrun \
    "${torchrun[@]}" --standalone --no-python --nproc_per_node=2 "$bin/train_net"
result "torchrun, static rendezvous" trains_alike static \
    "${torchrun[@]}" --no-python --nproc_per_node=2 --master_port 29511 "$bin/train_net"
# tools/train_net.py starts the release build where there is one.
result "python -m torch.distributed.launch tools/train_net.py" trains_alike distributed_launch \
    "$python" -W ignore -m torch.distributed.launch --nproc_per_node=2 --master_port 29512 tools/train_net.py

# One of the processes is killed; torchrun starts both again, and they go on from what SIGTERM had saved.
goes_on_after_kill() {
    mapfile -t args < <(arguments "$work/restart" --skip-test)
    "${torchrun[@]}" --standalone --no-python --nproc_per_node=2 --max-restarts 1 --monitor-interval 0.2 \
        "$bin/train_net" "${args[@]}" >"$work/log" 2>&1 &
    launcher=$!
    local waited=0 victim=
    until grep -qs "iter: 20 " "$work/restart/log.txt"; do
        sleep 0.1
        waited=$((waited + 1))
        [ "$waited" -lt 1200 ] || return 1
    done
    for process in $(pgrep -P "$launcher"); do
        if tr '\0' '\n' <"/proc/$process/environ" | grep -qx RANK=1; then victim=$process; fi
    done
    [ -n "$victim" ] && kill -KILL "$victim"
    wait "$launcher" || return 1
    launcher=
    grep -q "exactly as a run that never stopped" "$work/restart/log.txt" && same_checkpoint restart
}
result "torchrun --max-restarts 1, rank 1 killed" goes_on_after_kill

tests_alike() {
    local name
    for name in one two; do
        mapfile -t args < <(arguments "$work/$name" --ckpt "$work/launch/model_final.pth")
        if [ "$name" = one ]; then
            "$bin/test_net" "${args[@]}" TEST.IMS_PER_BATCH 1 >"$work/log" 2>&1 || return 1
        else
            "${torchrun[@]}" --standalone --no-python --nproc_per_node=2 "$bin/test_net" "${args[@]}" \
                TEST.IMS_PER_BATCH 2 >"$work/log" 2>&1 || return 1
        fi
    done
    cmp -s "$work/one/inference/shapes_val/bbox.json" "$work/two/inference/shapes_val/bbox.json"
}
result "torchrun test_net, detections as those of one process" tests_alike

reports_error() {
    mapfile -t args < <(arguments "$work/error" --skip-test)
    if "${torchrun[@]}" --standalone --no-python --nproc_per_node=2 "$bin/train_net" "${args[@]}" \
        SOLVER.IMS_PER_BATCH 3 >"$work/log" 2>&1; then
        return 1
    fi
    # torchrun's own report, made from the file that TORCHELASTIC_ERROR_FILE names.
    sed -n '/Root Cause/,$p' "$work/log" | grep -q "SOLVER.IMS_PER_BATCH (3) must be divisible"
}
result "torchrun's report shows our error" reports_error

[ "$failures" = 0 ] || { echo "$failures failed"; exit 1; }
