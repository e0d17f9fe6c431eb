#!/usr/bin/env bash
# Unpacks what tools/package.sh makes and runs it with an empty environment, where the build tree and .libtorch are out of
# reach. MRB_PROFILE and MRB_NO_BUILD as in package.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
repository=$PWD

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tools/package.sh "$work/package.tar.gz"
tar -C "$work" -xzf "$work/package.tar.gz"
root=$(echo "$work"/maskrcnn-benchmark-*)
fail() { echo "FAIL: $*" >&2; exit 1; }

for file in licenses/maskrcnn-benchmark.txt licenses/crates.txt README.txt lib/libtorch_cpu.so; do
    [ -s "$root/$file" ] || fail "$file is missing"
done
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

# Real work: images are written, tensors are written and read.
cat > "$work/run.sh" <<'EOF'
set -eu
cd "$1"
./bin/make_shapes --output "$2/shapes" --train 2 --val 1 > /dev/null
printf 'cos\nsystem\n.' > "$2/hostile.pth"
if ./bin/convert_weights --list "$2/hostile.pth" 2> "$2/message.txt"; then exit 1; fi
grep -q os.system "$2/message.txt"
test -s "$2/shapes/annotations/instances_val.json"
EOF
env -i sh "$work/run.sh" "$root" "$work" || fail "the programs do not work with an empty environment"

# The same with the checkout, and what .libtorch points to, hidden.
libtorch=$(readlink -f "${LIBTORCH:-.libtorch}" || true)
hide="mount -t tmpfs none '$repository'"
[ -d "$libtorch" ] && hide="$hide && mount -t tmpfs none '$libtorch'"
if unshare -rm true 2> /dev/null; then
    rm -rf "$work/shapes"
    env -i unshare -rm sh -c "$hide && cd / && sh '$work/run.sh' '$root' '$work'" || fail "the package needs the build tree"
    echo "package: runs with the build tree and libtorch hidden"
else
    echo "SKIPPED: hiding the build tree needs user namespaces (unshare -rm)"
fi
echo "package: passed"
