#!/usr/bin/env bash
# Gets the libtorch that this crate is built on and links it as .libtorch.
#
#   tools/setup_libtorch.sh          fetch it from PyPI if it is not there yet (540 MB); enough for the CPU
#   tools/setup_libtorch.sh --cuda   with NVIDIA's libraries and nvcc (about 2.5 GB more), so that the next build has
#   the
#                                    CUDA kernels
#   tools/setup_libtorch.sh --nvcc   only the compiler, to check that the CUDA sources compile; prints its folder
#   tools/setup_libtorch.sh --check  say in one sentence what would be used, or what is missing (exit status 1)
#
# LIBTORCH_USE_PYTORCH=1 (the torch of the active Python) and LIBTORCH (a folder) are left alone: they win.
# Needs Python 3 with pip; the files go to ${XDG_CACHE_HOME:-~/.cache}/maskrcnn-benchmark/<version>.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=2.11.0
cuda=13.0
cache="${XDG_CACHE_HOME:-$HOME/.cache}/maskrcnn-benchmark"
home="$cache/$version"
home_cuda="$cache/$version-cuda"
nvcc_home="$cache/nvcc-$cuda"
nvcc_packages=("nvidia-cuda-nvcc==$cuda.*" "nvidia-cuda-crt==$cuda.*" "nvidia-nvvm==$cuda.*" "nvidia-cuda-cccl==$cuda.*"
    "nvidia-cuda-runtime==$cuda.*")

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

# A folder in the cache to work in, which is removed at the end; what, MB needed.
open_work() {
    local what=$1 need_mb=$2
    command -v python3 >/dev/null || { echo "python3 is needed to fetch $what; install it." >&2; exit 1; }
    python3 -m pip --version >/dev/null 2>&1 || {
        echo "pip is needed to fetch $what (python3 -m pip does not run); install it." >&2
        exit 1
    }
    mkdir -p "$cache"
    local free_mb=$(($(df -Pk "$cache" | awk 'NR == 2 { print $4 }') / 1024))
    if [ "$free_mb" -lt "$need_mb" ]; then
        echo "$cache has $free_mb MB free and $what needs $need_mb MB while it is unpacked: make room, or set XDG_CACHE_HOME." >&2
        exit 1
    fi
    work=$(mktemp -d "$cache/.unpack.XXXXXX")
    trap 'rm -rf "$work"' EXIT
}

platforms=(--only-binary=:all: --python-version 3.11 --implementation cp)
for glibc in $(seq 28 -1 17); do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64)

# Unpacks the wheels of the given packages into $work/root.
unpack() {
    rm -rf "$work/wheels"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps "${platforms[@]}" --dest "$work/wheels" "$@"
    python3 - "$work" <<'PY'
import glob, os, sys, zipfile

wanted = ("torch/lib/", "torch/include/", "torch/share/", "torch/version.py", "nvidia/")
root = sys.argv[1] + "/root"
for wheel in sorted(glob.glob(sys.argv[1] + "/wheels/*.whl")):
    with zipfile.ZipFile(wheel) as archive:  # extraction checks every file's CRC
        ends = ("LICENSE", "dist-info/METADATA")
        names = [name for name in archive.namelist() if name.startswith(wanted) or name.endswith(ends)]
        archive.extractall(root, names)
        for name in names:  # which leaves the permissions out
            if archive.getinfo(name).external_attr >> 16 & 0o100:
                os.chmod(f"{root}/{name}", 0o755)
PY
    rm -rf "$work/wheels"
}

# Moves $work/root to its place; another set-up may be the first in between. $2: a file that a good one has.
put_in_place() {
    rm -rf "$1"
    mv -T "$work/root" "$1" 2>/dev/null || [ -e "$1/$2" ]
}

# Makes .libtorch lead to a folder, in one step.
link() {
    if [ -e .libtorch ] && [ ! -L .libtorch ]; then
        echo ".libtorch is not a link that this command made: move it away, or name it with LIBTORCH" >&2
        exit 1
    fi
    local new=".libtorch.$$"
    ln -s "$1" "$new"
    mv -T "$new" .libtorch
    check
}

fetch_libtorch() {
    [ -n "$(fault "$home/torch")" ] || return 0
    open_work libtorch 2600
    echo "Fetching libtorch $version (about 540 MB) ..."
    # The runtime and CUPTI are the only NVIDIA libraries that libtorch_cpu.so names.
    unpack "torch==$version" "nvidia-cuda-runtime==$cuda.*" "nvidia-cuda-cupti==$cuda.*"
    # Wheels lack the file by which torch-sys checks the version.
    echo "$version" >"$work/root/torch/build-version"
    local wrong
    wrong=$(fault "$work/root/torch")
    [ -z "$wrong" ] || { echo "The unpacked libtorch is not usable: $wrong." >&2; exit 1; }
    # Another set-up may have been first, and its copy in use.
    [ -z "$(fault "$home/torch")" ] || put_in_place "$home" torch/build-version
    rm -rf "$work"
}

fetch_nvcc() {
    [ ! -x "$nvcc_home/nvidia/cu13/bin/nvcc" ] || return 0
    open_work nvcc 900
    echo "Fetching nvcc $cuda (about 120 MB) ..." >&2
    unpack "${nvcc_packages[@]}"
    [ -x "$nvcc_home/nvidia/cu13/bin/nvcc" ] || put_in_place "$nvcc_home" nvidia/cu13/bin/nvcc
    rm -rf "$work"
}

# The packages of NVIDIA's libraries with the versions that the torch wheel in $1 asks for, one per line. Most of them
# are extras of the package cuda-toolkit, which holds nothing but their versions.
nvidia_packages() {
    python3 - "$1"/torch-*.dist-info/METADATA "$work/toolkit" "${platforms[@]}" <<'PY'
import glob, re, subprocess, sys, zipfile

metadata, folder, *platforms = sys.argv[1:]


def requirements(text):
    """Name, extras, version and condition of each requirement that pins a version."""
    return re.findall(r"^Requires-Dist: ([\w.-]+)(?:\[([\w,]+)\])?==([^;\s]+)(.*)$", text, re.M)


for name, extras, version, _ in requirements(open(metadata, encoding="utf-8").read()):
    if name.startswith("nvidia-"):
        print(f"{name}=={version}")
    elif name == "cuda-toolkit":
        download = ["pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", *platforms]
        subprocess.run([sys.executable, "-m", *download, "--dest", folder, f"{name}=={version}"], check=True)
        with zipfile.ZipFile(glob.glob(folder + "/*.whl")[0]) as wheel:
            inner = next(n for n in wheel.namelist() if n.endswith("dist-info/METADATA"))
            listed = requirements(wheel.read(inner).decode())
        for library, _, pinned, condition in listed:
            extra = re.search(r"extra == '([\w-]+)'", condition)
            if extra and extra[1] in extras.split(","):
                print(f"{library}=={pinned}")
PY
}

# libtorch once more (hard links where possible) with all NVIDIA libraries, nvcc and compute-sanitizer beside it, where
# its run path looks for them.
fetch_cuda() {
    [ ! -x "$home_cuda/nvidia/cu13/bin/nvcc" ] || return 0
    open_work "CUDA for libtorch" 8000
    echo "Fetching NVIDIA's libraries and nvcc $cuda (about 2.5 GB) ..."
    if [ -z "$(fault "$home/torch")" ] && ls "$home"/torch-*.dist-info/METADATA >/dev/null 2>&1; then
        cp -al "$home" "$work/root"
        # Nothing is written through a link into the other copy.
        rm -rf "$work/root/nvidia" "$work/root/torch/build-version"
    else
        unpack "torch==$version"
    fi
    local packages
    mapfile -t packages < <(nvidia_packages "$work/root" | sort -u)
    [ "${#packages[@]}" -gt 9 ] || { echo "The torch wheel does not say which NVIDIA packages it needs." >&2; exit 1; }
    unpack "${packages[@]}" "nvidia-cuda-sanitizer-api==$cuda.*" "${nvcc_packages[@]}"
    echo "$version" >"$work/root/torch/build-version"
    [ -x "$home_cuda/nvidia/cu13/bin/nvcc" ] || put_in_place "$home_cuda" nvidia/cu13/bin/nvcc
    rm -rf "$work"
}

case "${1:-}" in
    --check) check; exit ;;
    --nvcc) fetch_nvcc; echo "$nvcc_home/nvidia/cu13"; exit ;;
    --cuda)
        if [ "${LIBTORCH_USE_PYTORCH:-}" = 1 ] || [ -n "${LIBTORCH:-}" ]; then
            echo "--cuda sets up .libtorch, and LIBTORCH or LIBTORCH_USE_PYTORCH is set: unset it, or give your libtorch an nvcc with CUDA_HOME." >&2
            exit 1
        fi
        fetch_cuda
        link "$home_cuda/torch"
        exit ;;
    "") ;;
    *) echo "usage: tools/setup_libtorch.sh [--cuda | --nvcc | --check]" >&2; exit 2 ;;
esac

if check >/dev/null; then
    check
    exit 0
fi
if [ "${LIBTORCH_USE_PYTORCH:-}" = 1 ] || [ -n "${LIBTORCH:-}" ]; then
    check >&2
    exit 1
fi
fetch_libtorch
link "$home/torch"
