#!/usr/bin/env bash
# Gets the libtorch that this crate is built on and links it as .libtorch.
#
#   tools/setup_libtorch.sh          fetch it from PyPI if it is not there yet
#   tools/setup_libtorch.sh --check  say in one sentence what would be used, or what is missing (exit status 1)
#
# LIBTORCH_USE_PYTORCH=1 (the torch of the active Python) and LIBTORCH (a folder) are left alone: they win.
# Needs Python 3 with pip; the files go to ${XDG_CACHE_HOME:-~/.cache}/maskrcnn-benchmark/<version>.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=2.11.0
cuda=13.0
need_mb=2600
cache="${XDG_CACHE_HOME:-$HOME/.cache}/maskrcnn-benchmark"
home="$cache/$version"

# What is wrong with a libtorch folder, in one sentence; nothing if it is good.
fault() {
    local dir=$1
    [ -d "$dir" ] || { echo "$dir does not exist"; return; }
    local file
    for file in lib/libtorch_cpu.so lib/libc10.so include/ATen/ATen.h; do
        [ -e "$dir/$file" ] || { echo "$dir is incomplete: $file is missing"; return; }
    done
    local found=
    [ -f "$dir/build-version" ] && found=$(tr -d '[:space:]' <"$dir/build-version")
    if [ -z "$found" ] && [ -f "$dir/version.py" ]; then
        found=$(sed -n "s/^__version__ = '\(.*\)'/\1/p" "$dir/version.py")
    fi
    found=${found%%+*}
    if [ -n "$found" ] && [ "$found" != "$version" ]; then
        echo "$dir holds libtorch $found, and this crate needs $version"
    fi
}

check() {
    if [ "${LIBTORCH_USE_PYTORCH:-}" = 1 ]; then
        local found
        found=$(python3 -c 'import torch; print(torch.__version__.split("+")[0])' 2>/dev/null) || {
            echo "LIBTORCH_USE_PYTORCH=1 is set, but python3 cannot import torch: install torch==$version or unset it."
            return 1
        }
        if [ "$found" != "$version" ]; then
            echo "LIBTORCH_USE_PYTORCH=1 is set, but python3 has torch $found: install torch==$version or unset it."
            return 1
        fi
        echo "libtorch $version of the active Python is used (LIBTORCH_USE_PYTORCH=1)."
        return 0
    fi
    local dir=.libtorch hint="run tools/setup_libtorch.sh"
    if [ -n "${LIBTORCH:-}" ]; then
        dir=$LIBTORCH hint="correct LIBTORCH or unset it"
    elif [ -L .libtorch ] && [ ! -e .libtorch ]; then
        echo ".libtorch points to $(readlink .libtorch), which is gone: $hint."
        return 1
    fi
    local wrong
    wrong=$(fault "$dir")
    if [ -n "$wrong" ]; then
        echo "$wrong: $hint."
        return 1
    fi
    echo "libtorch $version in $dir is used."
}

if [ "${1:-}" = --check ]; then
    check
    exit
elif [ $# -gt 0 ]; then
    echo "usage: tools/setup_libtorch.sh [--check]" >&2
    exit 2
fi

if check >/dev/null; then
    check
    exit 0
fi
if [ "${LIBTORCH_USE_PYTORCH:-}" = 1 ] || [ -n "${LIBTORCH:-}" ]; then
    check >&2
    exit 1
fi

if [ -n "$(fault "$home/torch")" ]; then
    command -v python3 >/dev/null || { echo "python3 is needed to fetch libtorch; install it, or set LIBTORCH." >&2; exit 1; }
    python3 -m pip --version >/dev/null 2>&1 || {
        echo "pip is needed to fetch libtorch (python3 -m pip does not run); install it, or set LIBTORCH." >&2
        exit 1
    }
    mkdir -p "$cache"
    free_mb=$(($(df -Pk "$cache" | awk 'NR == 2 { print $4 }') / 1024))
    if [ "$free_mb" -lt "$need_mb" ]; then
        echo "$cache has $free_mb MB free and libtorch needs $need_mb MB while it is unpacked: make room, or set XDG_CACHE_HOME." >&2
        exit 1
    fi
    work=$(mktemp -d "$cache/.unpack.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "Fetching libtorch $version (about 540 MB) ..."
    platforms=()
    for glibc in 28 27 26 25 24 17; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
    # The runtime and CUPTI are the only NVIDIA libraries that libtorch_cpu.so names.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
        "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$work/wheels" \
        "torch==$version" "nvidia-cuda-runtime==$cuda.*" "nvidia-cuda-cupti==$cuda.*"
    python3 - "$work" <<'PY'
import glob, sys, zipfile

wanted = ("torch/lib/", "torch/include/", "torch/share/", "torch/version.py", "nvidia/")
for wheel in sorted(glob.glob(sys.argv[1] + "/wheels/*.whl")):
    with zipfile.ZipFile(wheel) as archive:  # extraction checks every file's CRC
        archive.extractall(
            sys.argv[1] + "/root",
            [name for name in archive.namelist() if name.startswith(wanted) or name.endswith("LICENSE")],
        )
PY
    # Wheels lack the file by which torch-sys checks the version.
    echo "$version" >"$work/root/torch/build-version"
    wrong=$(fault "$work/root/torch")
    [ -z "$wrong" ] || { echo "The unpacked libtorch is not usable: $wrong." >&2; exit 1; }
    rm -rf "$home"
    mv -T "$work/root" "$home" 2>/dev/null || [ -z "$(fault "$home/torch")" ] # another set-up may have been first
fi
rm -rf .libtorch
ln -s "$home/torch" .libtorch
check
