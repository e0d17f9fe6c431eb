#!/usr/bin/env bash
# Compiles all CUDA sources for one architecture, so that they never rot on machines without a GPU: kernels to objects,
# the code between tensors and kernels for its syntax. A kernel that does not fit into registers is an error. Nothing of
# the crate's own build is touched.
#
#   tools/compile_cuda.sh [architecture]    9.0 unless given
#
# nvcc is that of CUDA_HOME or PATH, else it is fetched (tools/setup_libtorch.sh --nvcc). Nothing happens when the
# sources are those of the last successful run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

architecture=${1:-9.0}
number=${architecture/./}
if [ -x "${CUDA_HOME:-}/bin/nvcc" ]; then
    toolkit=$CUDA_HOME
elif command -v nvcc >/dev/null; then
    toolkit=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
else
    toolkit=$(tools/setup_libtorch.sh --nvcc)
fi
if [ "${LIBTORCH_USE_PYTORCH:-}" = 1 ]; then
    libtorch=$(python3 -c 'import os, torch; print(os.path.dirname(torch.__file__))')
else
    libtorch=${LIBTORCH:-.libtorch}
fi

out=target/cuda
mkdir -p "$out"
state=$({ "$toolkit/bin/nvcc" --version; echo "$architecture"; cat "$0" "$libtorch/version.py"
    find csrc -type f | LC_ALL=C sort | xargs sha256sum; } | sha256sum)
if [ "$(cat "$out/state" 2>/dev/null)" = "$state" ]; then
    echo "The CUDA sources are those of the last run for $architecture, which compiled."
    exit 0
fi
rm -f "$out/state"

export toolkit libtorch out number
compile() {
    case $1 in
        *.cu)
            "$toolkit/bin/nvcc" -c -O3 -std=c++17 -Xcompiler=-fPIC,-Wall -Werror all-warnings -Icsrc -DNDEBUG \
                -Xptxas=-warn-spills,-warn-lmem-usage \
                "-gencode=arch=compute_$number,code=sm_$number" "$1" -o "$out/$(basename "$1").o"
            ;;
        *)
            "${CXX:-c++}" -fsyntax-only -std=c++17 -Wall -Werror -Icsrc "-isystem$libtorch/include" \
                "-isystem$libtorch/include/torch/csrc/api/include" "-isystem$toolkit/include" -DMRB_WITH_CUDA "$1"
            ;;
    esac
    echo "$1"
}
export -f compile
{ find csrc -name '*.cu'; find csrc -name '*_cuda.cpp'; grep -rl MRB_WITH_CUDA csrc --include='*.cpp'; } | LC_ALL=C sort |
    xargs -P "$(nproc)" -I{} bash -c 'set -e; compile {}'
echo "$state" >"$out/state"
