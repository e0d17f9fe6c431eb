#!/usr/bin/env bash
# Real COCO images: test_net with a configuration of the Res2Net fork, and a small training that learns them by heart.
#
#   tools/real_data_check.sh [COCO_MINI]   a folder with val2017/ and annotations/instances_val2017.json
#                                          (default ../shared/coco_mini)
#
# MRB_WEIGHTS names weights for the first part; without them it runs with random ones and says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

coco=${1:-../shared/coco_mini}
annotations=$coco/annotations/instances_val2017.json images=$coco/val2017
for path in "$annotations" "$images"; do
    [ -e "$path" ] || { echo "missing: $path"; exit 1; }
done
dataset="('coco_mini_val=coco:$annotations:$images',)"

tools/setup_libtorch.sh
cargo build --release --bin train_net --bin test_net
bin=${CARGO_TARGET_DIR:-target}/release

echo "== test_net, pytorch_mask_rcnn_R2_50_s4_FPN_2x.yaml"
[ -n "${MRB_WEIGHTS:-}" ] || echo "MRB_WEIGHTS is not set: random weights, so the AP will be 0"
"$bin/test_net" --config-file configs/pytorch_mask_rcnn_R2_50_s4_FPN_2x.yaml --seed 1 \
    MODEL.WEIGHT "${MRB_WEIGHTS:-}" MODEL.DEVICE cpu DATASETS.TEST "$dataset" OUTPUT_DIR output/real_data_check/test

echo "== training on the same images until they are learnt"
output=output/real_data_check/train
rm -rf "$output"
"$bin/train_net" --config-file configs/quickstart/mask_rcnn_R2_50_FPN_gn_coco_mini.yaml --seed 1 \
    DATASETS.TRAIN "$dataset" DATASETS.TEST "$dataset" OUTPUT_DIR "$output" \
    TEST.EXPECTED_RESULTS "[['bbox', 'AP', 0.65, 0.0875]]" TEST.EXPECTED_RESULTS_SIGMA_TOL 4 | tee "$output.log"
# PASS: the AP lies within 0.65 ± 4 · 0.0875, that is above 0.3.
grep -q 'PASS: bbox > AP' "$output.log" || { echo "box AP on the images that were trained on is below 0.3"; exit 1; }
