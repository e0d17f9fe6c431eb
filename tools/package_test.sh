#!/usr/bin/env bash
# Unpacks what tools/package.sh makes and runs it with an empty environment, where the build tree and .libtorch are out
# of reach. MRB_PROFILE and MRB_NO_BUILD as in package.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repository=$PWD

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tools/package.sh "$work/package.tar"
tar -C "$work" -xf "$work/package.tar"
rm "$work/package.tar"
root=$(echo "$work"/maskrcnn-benchmark-*)
fail() { echo "FAIL: $*" >&2; exit 1; }

for file in licenses/maskrcnn-benchmark.txt licenses/crates.txt README.txt lib/libtorch_cpu.so; do
    [ -s "$root/$file" ] || fail "$file is missing"
done
[ -n "$(find "$root/licenses" -name 'torch-*.txt' -size +1k)" ] || fail "libtorch's licence is missing"
[ -n "$(find "$root/configs" -name '*.yaml')" ] || fail "there are no configurations"

# Every library comes from the package or from the system's own folders.
for program in "$root"/bin/*; do
    strangers=$(env -i ldd "$program" | awk '$2 == "=>" { print $3 }' | grep -vE "^($root/|/lib|/usr/lib)" || true)
    [ -z "$strangers" ] || fail "$(basename "$program") uses $strangers"
    env -i "$program" --help > "$work/help.txt" || fail "$(basename "$program") --help"
    grep -q Usage "$work/help.txt" || fail "$(basename "$program") --help says nothing"
done

# Fault points are for tests (src/utils/fault.rs). The dev profile is built together with these.
if [ "${MRB_PROFILE:-release}" != dev ] && grep -q MRB_FAULT "$root"/bin/*; then fail "a program contains fault points"; fi

# Real work: images are written, a network runs, weights are written and read, a hostile file is refused.
cat > "$work/run.sh" <<'EOF'
set -eu
cd "$1"
./bin/make_shapes --output "$2/shapes" --train 2 --val 1 > /dev/null
config=configs/quickstart/mask_rcnn_R2_50_FPN_gn_shapes.yaml
./bin/benchmark --config-file $config --image-size 96x128 --runs 1 --warmup 0 MODEL.DEVICE cpu > "$2/times.txt"
./bin/benchmark --config-file $config --loading --runs 1 --warmup 0 MODEL.DEVICE cpu > "$2/loading.txt"
grep -q 'mask head' "$2/times.txt" && grep -q '^loading: ' "$2/loading.txt"
printf 'cos\nsystem\n.' > "$2/hostile.pth"
if ./bin/convert_weights --list "$2/hostile.pth" 2> "$2/message.txt"; then exit 1; fi
grep -q os.system "$2/message.txt"
test -s "$2/shapes/annotations/instances_val.json"
EOF
env -i sh "$work/run.sh" "$root" "$work" || fail "the programs do not work with an empty environment"

# The same with the checkout hidden, and the folder with libtorch and the libraries that came with it.
libtorch=$(readlink -f "${LIBTORCH:-.libtorch}" || true)
hide="mount -t tmpfs none '$repository'"
[ -d "$libtorch" ] && hide="$hide && mount -t tmpfs none '$(dirname "$libtorch")'"
unshare=()
for options in -rm -m; do
    [ "${#unshare[@]}" -gt 0 ] || ! unshare "$options" true 2> /dev/null || unshare=(unshare "$options")
done
if [ "${#unshare[@]}" -gt 0 ]; then
    rm -rf "$work/shapes"
    env -i "${unshare[@]}" sh -c "$hide && cd / && sh '$work/run.sh' '$root' '$work'" || fail "the package needs the build tree"
    echo "package: runs with the build tree and libtorch hidden"
else
    echo "SKIPPED: hiding the build tree needs user namespaces or the right to mount (unshare -rm, unshare -m)"
fi
echo "package: passed"
