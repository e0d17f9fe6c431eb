#!/usr/bin/env bash
# Makes a Python environment with a full torch, for comparisons with the PyTorch original. Never needed to build or use
# this project.
#
#   tools/setup_peers.sh DIR     make it in DIR (about 7 GB, outside the checkout), print the MRB_PYTHON to set
set -euo pipefail

dir=${1:?usage: tools/setup_peers.sh DIR}
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
case "$dir/" in
"$checkout"/*)
    echo "$dir is inside the checkout: choose a folder outside it." >&2
    exit 1
    ;;
esac
[ -x "$dir/bin/python" ] || python3 -m venv "$dir"
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check \
    torch==2.11.0 torchvision==0.26.0 numpy safetensors pillow yacs opencv-python-headless pycocotools matplotlib tqdm
"$dir/bin/python" -c 'import torch, torchvision; print("torch", torch.__version__, "torchvision", torchvision.__version__)'
echo "export MRB_PYTHON=$dir/bin/python"
