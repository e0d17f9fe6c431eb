#!/usr/bin/env bash
# From a fresh clone to a trained Mask R-CNN and pictures of what it sees, on the CPU.
#
#   tools/quickstart.sh           get libtorch, build, make the shapes data set, train, evaluate, draw
#   tools/quickstart.sh --smoke   the same path in less than a minute; checks that the loss falls and every file exists
#
# What is there already is used again: a second run goes on where the first stopped. MRB_PROFILE=dev builds with
# cargo's dev profile instead of release.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=configs/quickstart/mask_rcnn_R2_50_FPN_gn_shapes.yaml
data=datasets/shapes output=output/quickstart train=2000 val=300 pictures=8 overrides=()
smoke=
case "${1:-}" in
    '') ;;
    --smoke)
        smoke=1 data=datasets/shapes_smoke output=output/quickstart_smoke train=48 val=8 pictures=2
        # Small images and few of them; the loss of a fresh start falls fast.
        overrides=(SOLVER.MAX_ITER 40 SOLVER.WARMUP_ITERS 10 SOLVER.CHECKPOINT_PERIOD 20 SOLVER.IMS_PER_BATCH 2
            INPUT.MIN_SIZE_TRAIN "(128,)" INPUT.MIN_SIZE_TEST 128)
        rm -rf "$output"
        ;;
    *)
        sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
        exit 2
        ;;
esac
overrides+=(OUTPUT_DIR "$output"
    DATASETS.TRAIN "('shapes_train=coco:$data/annotations/instances_train.json:$data/train',)"
    DATASETS.TEST "('shapes_val=coco:$data/annotations/instances_val.json:$data/val',)")

step() { printf '\n== %s\n' "$*"; }

step "libtorch"
tools/setup_libtorch.sh

profile=${MRB_PROFILE:-release}
step "Build (profile $profile)"
if [ "$profile" = dev ]; then
    # With the tests, so that the dependencies that they were built with serve here too.
    cargo build --bins --tests
    bin=${CARGO_TARGET_DIR:-target}/debug
else
    cargo build --profile "$profile" --bin make_shapes --bin train_net --bin test_net --bin demo
    bin=${CARGO_TARGET_DIR:-target}/$profile
fi

step "Data: $data"
"$bin/make_shapes" --output "$data" --train "$train" --val "$val"

step "Training (stop and start again at will; log: $output/log.txt)"
"$bin/train_net" --config-file "$config" --seed 1 --skip-test "${overrides[@]}"

step "Evaluation"
"$bin/test_net" --config-file "$config" --seed 1 "${overrides[@]}"

step "Pictures"
images=("$data"/val/*.jpg)
"$bin/demo" --config-file "$config" --weights "$output/model_final.pth" --confidence-threshold 0.5 \
    --output "$output/demo" "${images[@]:0:$pictures}"
ls "$output"/demo/*

[ -n "$smoke" ] || exit 0
step "Checks"
results=$output/inference/shapes_val
for file in "$output"/{log.txt,config.yml,labels.json,last_checkpoint,model_0000020.pth,model_final.pth} \
    "$results"/{bbox.json,segm.json,coco_results.pth,predictions.pth}; do
    [ -s "$file" ] || { echo "missing: $file"; exit 1; }
done
[ "$(find "$output/demo" -type f | wc -l)" -ge "$pictures" ] || { echo "missing: pictures in $output/demo"; exit 1; }
# The mean of the first 20 iterations (in brackets) and the median of the last 20.
lines=$(grep 'trainer INFO: eta: ' "$output/log.txt")
first=$(head -n 1 <<<"$lines" | sed 's/.* loss: [0-9.]* (\([0-9.]*\)).*/\1/')
last=$(tail -n 1 <<<"$lines" | sed 's/.* loss: \([0-9.]*\) .*/\1/')
awk -v first="$first" -v last="$last" 'BEGIN { exit !(last > 0 && last < 0.95 * first) }' ||
    { echo "the loss does not fall: $first at the start, $last at the end"; exit 1; }
echo "every file is there, and the loss falls from $first to $last"
