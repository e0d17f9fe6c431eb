#!/usr/bin/env bash
# Files of weights against a real PyTorch: what it writes is read here, what is written here is read there, and the
# original's own code goes on from a checkpoint of this project. Not part of CI: it needs the full torch of
# tools/setup_peers.sh.
#
#   MRB_PYTHON=… [MRB_ORIGINAL=…] tools/check_pytorch.sh [--large]
#
# MRB_ORIGINAL is a checkout of the Res2Net fork of maskrcnn-benchmark (nothing in it need be compiled); MRB_PROFILE
# chooses the build (default: release).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ -z "${MRB_PYTHON:-}" ]; then
    echo "SKIPPED: MRB_PYTHON names no Python with torch (tools/setup_peers.sh makes one)"
    exit 0
fi
profile=${MRB_PROFILE:-release}
bin=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cargo test --profile "$profile" --no-run
"$bin/make_shapes" --output "$work/shapes" --train 4 --val 1 > /dev/null
dataset="('shapes=coco:$work/shapes/annotations/instances_train.json:$work/shapes/train',)"
"$bin/train_net" --config-file tests/programs/tiny.yaml --seed 1 --skip-test SOLVER.MAX_ITER 2 \
    DATASETS.TRAIN "$dataset" OUTPUT_DIR "$work/run" > /dev/null

"$MRB_PYTHON" tools/check_pytorch.py --bin "$bin" --checkpoint "$work/run/model_0000002.pth" "$@"
cargo test --profile "$profile" --test golden loading:: -- --nocapture --test-threads 1 | grep -E "SKIPPED|same|goes on|test result"
