#!/usr/bin/env bash
# Everything that only an NVIDIA GPU can show, in one command: kernels against golden values and the CPU, training and
# inference in float32, float16 and bfloat16, timings, compute-sanitizer. Goes on after a step that fails; the report is
# written anew after each.
#
#   tools/gpu_check.sh [--output DIR]              build here, then run (default of DIR: output/gpu_check)
#   tools/gpu_check.sh --pack DIR                  build here and put all that a run needs into DIR
#   DIR/tools/gpu_check.sh --from DIR [--output …] run that on a machine without Rust and network; needs a Python
#                                                  with torch 2.11.0+cu130 (MRB_PYTHON, default python3), whose
#                                                  libraries are used
#
# For a run: --limit SECONDS ends it in time (steps that come too late are said to be skipped, and the comparison with
# torchvision is a short one); --only REGEX runs the steps with such a name.
# MRB_PROFILE chooses the build (default: release). MRB_GOLDEN: the golden folder to pack or to use. docs/GPU.md says
# more.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

usage() {
    sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 2
}

output='' pack='' from='' limit='' only=''
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || usage
    case $1 in
        --output) output=$2 ;;
        --pack) pack=$2 ;;
        --from) from=$2 ;;
        --limit) limit=$2 ;;
        --only) only=$2 ;;
        *) usage ;;
    esac
    shift 2
done
[ -z "$pack" ] || [ -z "$from$output$limit$only" ] || usage
case $limit in *[!0-9]*) usage ;; esac

programs="train_net test_net launch benchmark make_shapes collect_env"
# What the tests of the module `cuda` read: operators, and detectors of every kind.
golden_parts="ops models/tiny/fork_r_50_fpn_mask models/tiny/r2_50_fpn_mask_s4 models/tiny/dcn_v2_r_50_fpn_mask
    models/tiny/keypoint_r_50_fpn models/tiny/r2_50_fpn_retinanet models/tiny/r_50_c4_mask"
most_megabytes=64

build() {
    cd "$here" || exit 1
    local profile=${MRB_PROFILE:-release}
    # At once: apart, programs and tests would each have their own copies of all crates.
    cargo build --profile "$profile" --bins --test golden || exit 1
    bin=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")
    golden_test=$(cargo test --profile "$profile" --test golden --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\))$/\1/p')
    [ -x "$golden_test" ] || { echo "cargo test --no-run does not name the golden tests" >&2; exit 1; }
    golden=${MRB_GOLDEN:-../shared/golden}
    [ -d "$golden" ] || golden=tests/golden
}

make_pack() {
    build
    mkdir -p "$pack/bin" "$pack/tools" "$pack/golden/models/tiny" "$pack/configs/quickstart" || exit 1
    local program part folder
    for program in $programs; do
        [ -x "$bin/$program" ] || { echo "$bin/$program is not built" >&2; exit 1; }
        cp "$bin/$program" "$pack/bin/"
    done
    cp "$golden_test" "$pack/bin/golden"
    # The part that knows NCCL is a library of its own, which the programs look for beside themselves too.
    for folder in $(readelf -d "$bin/train_net" | sed -n 's/.*R.*PATH.*\[\(.*\)\]/\1/p' | tr ':' ' '); do
        [ -e "$folder/libmrb_nccl.so" ] || continue
        mkdir -p "$pack/lib" && cp "$folder/libmrb_nccl.so" "$pack/lib/"
    done
    strip "$pack"/bin/*
    local sanitizer
    for sanitizer in "${LIBTORCH:-.libtorch}"/../nvidia/cu13/bin/{compute-sanitizer,libsanitizer-collection.so}; do
        [ ! -e "$sanitizer" ] || cp "$sanitizer" "$pack/bin/"
    done
    tar -C "$pack" -czf "$pack/bin.tar.gz" bin || exit 1
    rm -r "${pack:?}/bin"
    for part in $golden_parts; do
        [ -d "$golden/$part" ] || { echo "note: $golden has no $part, so those tests will be skipped" >&2; continue; }
        cp -r "$golden/$part" "$pack/golden/$(dirname "$part")/"
    done
    cp configs/e2e_mask_rcnn_R_50_FPN_1x.yaml "$pack/configs/"
    cp configs/quickstart/mask_rcnn_R2_50_FPN_gn_shapes.yaml "$pack/configs/quickstart/"
    cp tools/gpu_check.sh tools/compare_gpu.py tools/peers.py "$pack/tools/"
    cp docs/GPU.md LICENSE "$pack/"
    { git rev-parse HEAD && git status --short; } > "$pack/VERSION" 2> /dev/null
    chmod -R u+w "$pack"
    local megabytes
    megabytes=$(($(du -sk "$pack" | cut -f 1) / 1024))
    echo "$pack: $megabytes MiB. Copy it to the machine with the GPU and run there: DIR/tools/gpu_check.sh --from DIR"
    if [ "$megabytes" -ge "$most_megabytes" ]; then
        echo "This is more than $most_megabytes MiB; the largest files:" >&2
        du -ak "$pack" | sort -rn | sed -n '2,8p' >&2
        exit 1
    fi
}

if [ -n "$pack" ]; then
    make_pack
    exit
fi

python=${MRB_PYTHON:-python3}
if [ -n "$from" ]; then
    output=$(realpath -m "${output:-output/gpu_check}")
    cd "$from" || exit 1
    [ -d bin ] || tar -xzf bin.tar.gz || exit 1
    bin=bin golden_test=bin/golden golden=${MRB_GOLDEN:-golden}
    torch=$("$python" -c 'import os, torch; print(torch.__version__, os.path.dirname(torch.__file__))') || {
        echo "$python cannot import torch: set MRB_PYTHON to a Python with torch 2.11.0+cu130" >&2
        exit 1
    }
    case $torch in
        2.11.0*) export LD_LIBRARY_PATH="${torch#* }/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" ;;
        *)
            echo "$python has torch ${torch%% *}, and the programs are made for 2.11.0" >&2
            exit 1
            ;;
    esac
else
    build
fi
SECONDS=0
output=${output:-output/gpu_check}
mkdir -p "$output/logs" || exit 1
output=$(cd "$output" && pwd)
golden=$(cd "$golden" && pwd)
golden_test=$(cd "$(dirname "$golden_test")" && pwd)/$(basename "$golden_test")
bin=$(cd "$bin" && pwd)
export MRB_GOLDEN=$golden

# ---- what can be missing ----

no_gpu=''
gpus=$(nvidia-smi -L 2> /dev/null) || gpus=''
[ -n "$gpus" ] || gpus=$("$bin/collect_env" | sed -n 's/^GPU \([0-9]*\): /GPU \1: /p')
[ -n "$gpus" ] || no_gpu="no GPU: $("$bin/collect_env" | sed -n 's/^Is CUDA available: No: //p')"
need_smi=gpu
command -v nvidia-smi > /dev/null || need_smi="nvidia-smi is not installed"
# In a toolkit, beside packed-up programs, or where tools/setup_libtorch.sh --cuda puts it.
sanitizer=$({
    command -v compute-sanitizer "$bin/compute-sanitizer"
    ls /usr/local/cuda*/bin/compute-sanitizer "${LIBTORCH:-.libtorch}"/../nvidia/cu13/bin/compute-sanitizer 2> /dev/null
} | head -n 1)
need_sanitizer=gpu
[ -n "$sanitizer" ] || need_sanitizer="compute-sanitizer is not installed"
need_torchvision=gpu
"$python" -c 'import torch, torchvision' 2> /dev/null || need_torchvision="$python has no torch and torchvision (MRB_PYTHON)"

# ---- the report ----

table=$output/steps.txt
: > "$table"
number=0 failed=0

report() {
    echo "# GPU check"
    echo
    echo "$(date -u '+%Y-%m-%d %H:%M UTC'), $(uname -sr), ${gpus:-$no_gpu}"
    echo
    if [ -n "$from" ]; then
        echo "Programs from $from; torch $torch; commit $(head -n 1 VERSION 2> /dev/null)"
    else
        echo "Programs built here; commit $(git rev-parse HEAD 2> /dev/null)"
    fi
    echo
    echo "| step | result | seconds | log |"
    echo "|---|---|---|---|"
    cat "$table"
    local log
    for log in "$output"/logs/*.log; do
        [ -e "$log" ] || continue
        echo
        echo "## $(basename "$log" .log)"
        echo
        echo '```'
        if [ "$(wc -l < "$log")" -gt 60 ]; then
            head -n 15 "$log"
            echo "[…]"
            tail -n 40 "$log"
        else
            cat "$log"
        fi
        echo '```'
    done
}

# note STATUS SECONDS NAME LOG: a line of the report's table; whoever is stopped later leaves the report so far.
note() {
    printf '| %s | %s | %s | %s |\n' "$3" "$1" "$2" "$4" >> "$table"
    printf '%-40s %s (%s s)\n' "$3" "$1" "$2"
    report > "$output/report.new" && mv "$output/report.new" "$output/report.md"
}

# Seconds of --limit that are left for a step of at most $1.
seconds_for() {
    local left=$1
    if [ -n "$limit" ] && [ $((limit - SECONDS)) -lt "$left" ]; then left=$((limit - SECONDS)); fi
    echo "$left"
}

# step NAME LIMIT NEED COMMAND …: runs a command for at most LIMIT seconds. NEED: gpu, nothing, or a reason not to run
# it.
step() {
    local name=$1 most=$2 need=$3 reason='' log started status word seconds
    shift 3
    if [ -n "$only" ] && ! [[ $name =~ $only ]]; then return; fi
    number=$((number + 1))
    log=logs/$(printf '%02d' "$number")-$(printf '%s' "$name" | tr -cs 'a-zA-Z0-9\n' '_').log
    case $need in
        gpu) reason=$no_gpu ;;
        nothing) ;;
        *) reason=${no_gpu:-$need} ;;
    esac
    seconds=$(seconds_for "$most")
    # What is killed needs some more seconds.
    if [ -z "$reason" ] && [ "$seconds" -lt 8 ]; then reason="the $limit s of --limit are over"; fi
    if [ -n "$reason" ]; then
        note "SKIPPED: $reason" 0 "$name" -
        return
    fi
    started=$SECONDS
    { printf '$'; printf ' %q' "$@"; printf '\n'; } > "$output/$log"
    timeout --kill-after=5 "$((seconds < most ? seconds - 5 : seconds))" "$@" >> "$output/$log" 2>&1 < /dev/null
    status=$?
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        word="FAILED: still running after $((SECONDS - started)) s"
    elif [ "$status" -ne 0 ]; then
        word="FAILED: status $status"
    elif grep -q 'SKIPPED: ' "$output/$log"; then
        word="passed, but $(grep -c 'SKIPPED: ' "$output/$log") times $(grep -m 1 -o 'SKIPPED: .*' "$output/$log")"
    else
        word=passed
    fi
    case $word in FAILED*) failed=$((failed + 1)) ;; esac
    note "$word" $((SECONDS - started)) "$name" "$log"
}

# ---- the machine and the kernels: what everything else stands on ----

step "machine" 30 "$need_smi" nvidia-smi
step "environment" 60 nothing "$bin/collect_env"
# One test at a time: a failure of the device belongs to one of them then.
step "kernels on CUDA" 300 gpu "$golden_test" cuda::dense_ops cuda::roi_and_nms cuda::layers cuda::transfer --nocapture --test-threads 1
step "golden detectors on CUDA" 300 gpu "$golden_test" cuda::models --nocapture --test-threads 1

# ---- training and inference ----

data=$output/shapes
config=configs/quickstart/mask_rcnn_R2_50_FPN_gn_shapes.yaml
[ -f "$config" ] || config=$here/$config
overrides=(MODEL.DEVICE cuda SOLVER.MAX_ITER 60 SOLVER.WARMUP_ITERS 20 SOLVER.CHECKPOINT_PERIOD 60
    DATASETS.TRAIN "('shapes_train=coco:$data/annotations/instances_train.json:$data/train',)"
    DATASETS.TEST "('shapes_val=coco:$data/annotations/instances_val.json:$data/val',)")

# The mean of the first 20 iterations (in brackets) and the median of the last 20.
train() {
    local folder=$1
    shift
    rm -rf "$folder"
    "$@" OUTPUT_DIR "$folder" || return 1
    local lines first last
    lines=$(grep 'trainer INFO: eta: ' "$folder/log.txt")
    first=$(head -n 1 <<< "$lines" | sed 's/.* loss: [0-9.]* (\([0-9.]*\)).*/\1/')
    last=$(tail -n 1 <<< "$lines" | sed 's/.* loss: \([0-9.]*\) .*/\1/')
    echo "loss: $first at the start, $last at the end"
    awk -v first="$first" -v last="$last" 'BEGIN { exit !(last > 0 && last < 0.95 * first) }'
}
test_results() {
    local folder=$1 file
    shift
    "$@" OUTPUT_DIR "$folder" || return 1
    for file in bbox.json segm.json coco_results.pth; do
        [ -s "$folder/inference/shapes_val/$file" ] || { echo "missing: $file"; return 1; }
    done
}
export -f train test_results

step "data" 60 nothing "$bin/make_shapes" --output "$data" --train 64 --val 8
for dtype in float32 float16 bfloat16; do
    run=$output/$dtype
    common=(--config-file "$config" --seed 1)
    step "training in $dtype" 180 gpu bash -c 'train "$@"' - "$run" \
        "$bin/train_net" "${common[@]}" --skip-test "${overrides[@]}" DTYPE "$dtype"
    step "inference in $dtype" 90 gpu bash -c 'test_results "$@"' - "$run" \
        "$bin/test_net" "${common[@]}" "${overrides[@]}" DTYPE "$dtype"
done
rm -f "$output"/*float*/*.pth # a report is to be carried away

# ---- timings ----

benchmark_config=configs/e2e_mask_rcnn_R_50_FPN_1x.yaml
[ -f "$benchmark_config" ] || benchmark_config=$here/$benchmark_config
for dtype in float32 float16; do
    # Random weights score every class alike: with the usual threshold there would be nothing to find masks for.
    step "benchmark in $dtype" 180 gpu "$bin/benchmark" --config-file "$benchmark_config" --image-size 800x1333 \
        --runs 20 --warmup 5 --tf32 on --json "$output/benchmark_$dtype.json" MODEL.DEVICE cuda MODEL.WEIGHT '' \
        DTYPE "$dtype" MODEL.ROI_HEADS.SCORE_THRESH 0.0
done
step "training with one image in float16" 120 gpu "$bin/benchmark" --config-file "$benchmark_config" \
    --image-size 800x1333 --training --batch 1 --runs 5 --warmup 3 --tf32 on MODEL.DEVICE cuda MODEL.WEIGHT '' DTYPE float16
step "operators of a training step" 120 gpu "$bin/benchmark" --config-file "$benchmark_config" --image-size 800x1333 \
    --training --batch 2 --runs 5 --warmup 3 --tf32 on --operators MODEL.DEVICE cuda MODEL.WEIGHT '' DTYPE float16
compare=tools/compare_gpu.py
[ -f "$compare" ] || compare=$here/$compare
effort=(--rounds 3 --runs 10 --warmup 8)
[ -z "$limit" ] || effort=(--rounds 2 --runs 8 --warmup 6)
step "side by side with torchvision" 1800 "$need_torchvision" "$python" "$compare" --benchmark "$bin/benchmark" \
    --config-file "$benchmark_config" "${effort[@]}" --json "$output/compare_gpu.json"

# ---- what can wait ----

step "NCCL with one process" 120 gpu "$golden_test" cuda::nccl --nocapture --test-threads 1
step "golden operators on the CPU" 300 nothing "$golden_test" ops:: --skip cuda --nocapture
# Only our own kernels: those of cuDNN and cuBLAS are others' and take too long. Without libtorch's own allocator every
# tensor has its borders where the tool looks for them. racecheck is about shared memory, which NMS and matching use (on
# an H200 it failed by itself, with an internal error, at the first kernel of the deformable operators, which use none);
# maxima_kernel reads a maximum while others may raise it, on purpose: who reads an old one tries to raise it as well.
for tool in memcheck synccheck racecheck; do
    tests=(cuda::dense_ops cuda::roi_and_nms) excluded=()
    if [ "$tool" = racecheck ]; then
        tests=(cuda::roi_and_nms::golden_nms cuda::roi_and_nms::nms_ cuda::dense_ops::match_by_iou)
        excluded=(--kernel-name-exclude kernel_substring=maxima_kernel)
    fi
    step "compute-sanitizer $tool" 600 "$need_sanitizer" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" \
        --tool "$tool" --error-exitcode 9 --kernel-name kernel_substring=mrb "${excluded[@]}" \
        "$golden_test" "${tests[@]}" --test-threads 1
done

rm -f "$table"
echo "report: $output/report.md"
[ "$failed" -eq 0 ]
