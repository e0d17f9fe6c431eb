#!/usr/bin/env bash
# Packs the built programs into a tarball that runs on any Linux of the same architecture with the same or a newer
# glibc: programs, the shared libraries that they need, configurations, licences. Nothing has to be installed or set to
# use it.
#
#   tools/package.sh [OUTPUT]     default: target/package/maskrcnn-benchmark-<version>-<architecture>.tar.gz; a name
#   that
#                                 ends in .tar is not compressed
#
# MRB_PROFILE chooses the build (default: release); with MRB_NO_BUILD its programs are taken as they are. Needs what the
# build needs, and ldd.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

profile=${MRB_PROFILE:-release}
folder=$([ "$profile" = dev ] && echo debug || echo "$profile")
target=${CARGO_TARGET_DIR:-target}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
name="maskrcnn-benchmark-$version-$(uname -m)"
output=${1:-$target/package/$name.tar.gz}

[ -n "${MRB_NO_BUILD:-}" ] || cargo build --profile "$profile" --bins
programs=$(awk '/^\[\[bin\]\]/ { bin = 1 } bin && /^name =/ { gsub(/"/, "", $3); print $3; bin = 0 }' Cargo.toml)
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
root="$stage/$name"
mkdir -p "$root/bin" "$root/lib" "$root/licenses" "$(dirname "$output")"

for program in $programs; do
    [ -x "$target/$folder/$program" ] || { echo "$target/$folder/$program is not built" >&2; exit 1; }
    cp "$target/$folder/$program" "$root/bin/"
done

# The C library and the loader belong to the system; everything else that the loader finds comes along.
ldd "$root"/bin/* | awk '$2 == "=>" { print $1, $3 }' | sort -u | while read -r library path; do
    case $library in
        libc.so.* | libm.so.* | libdl.so.* | librt.so.* | libpthread.so.* | libutil.so.* | libresolv.so.* | ld-linux*) ;;
        *)
            [ -f "$path" ] || { echo "$library is not found" >&2; exit 1; }
            [ -e "$root/lib/$library" ] || cp -L "$path" "$root/lib/$library"
            ;;
    esac
done
libtorch=$(ldd "$root"/bin/* | awk '$1 == "libtorch_cpu.so" && !found++ { print $3 }')
[ -n "$libtorch" ] || { echo "the programs do not use libtorch: is this a build of this crate?" >&2; exit 1; }

# The programs also look where libtorch was when they were built; in the package only ../lib counts. The shorter path
# takes the place of the longer one, so nothing else in the file moves.
python3 - "$root"/bin/* <<'EOF'
import re, sys
for path in sys.argv[1:]:
    with open(path, "rb") as f:
        data = f.read()
    keep = b"$ORIGIN/../lib"
    data, count = re.subn(rb"/[^\0]*:\$ORIGIN/\.\./lib\0", lambda m: keep.ljust(len(m.group()), b"\0"), data)
    if count != 1:
        sys.exit(f"{path}: {count} library paths instead of one")
    with open(path, "wb") as f:
        f.write(data)
EOF
[ "$profile" = dev ] || strip "$root"/bin/* 2>/dev/null || true

cp -r configs "$root/"
cp LICENSE "$root/licenses/maskrcnn-benchmark.txt"
# A link on the way (.libtorch) must be followed before going up.
site=$(dirname "$(dirname "$(dirname "$(readlink -f "$libtorch")")")")
for licence in "$site"/*.dist-info/licenses/*; do
    [ -f "$licence" ] || continue
    package=$(basename "$(dirname "$(dirname "$licence")")" .dist-info)
    cat "$licence" >> "$root/licenses/$package.txt"
done
# Every crate's name and licence, and the licence texts that it ships.
host=$(rustc -vV | sed -n "s/^host: //p")
cargo metadata --format-version 1 --offline --filter-platform "$host" | python3 -c '
import glob, json, os, sys
out = sys.argv[1]
with open(os.path.join(out, "crates.txt"), "w") as f:
    for package in sorted(json.load(sys.stdin)["packages"], key=lambda p: p["name"]):
        if package["source"] is None:
            continue
        f.write("%s %s: %s\n" % (package["name"], package["version"], package["license"] or "see its licence file"))
        folder = os.path.dirname(package["manifest_path"])
        # What a crate ships of other projects (mozjpeg, fonts) lies below it.
        names = ("licen[cs]e*", "LICEN[CS]E*", "COPYING*", "NOTICE*", "UNLICENSE*", "OFL*")
        texts = {text for name in names for text in glob.glob(os.path.join(folder, "**", name), recursive=True)}
        for text in sorted(texts):
            if os.path.isfile(text) and not text.endswith(".rs"):
                with open(text, errors="replace") as g:
                    f.write("".join("    " + line for line in g).rstrip() + "\n\n")
' "$root/licenses"
cat > "$root/README.txt" <<EOF
maskrcnn-benchmark $version on libtorch (CPU). Run the programs in bin/, for example

    bin/test_net --config-file configs/FILE.yaml MODEL.WEIGHT WEIGHTS.pth

They find the libraries in lib/ by themselves, wherever this folder lies.
EOF

case $output in *.tar) compress=() ;; *) compress=(-z) ;; esac
tar -C "$stage" "${compress[@]}" -cf "$output.tmp" "$name"
mv "$output.tmp" "$output"
echo "$output: $(echo $programs | wc -w) programs, $(ls "$root/lib" | wc -l) libraries, $(du -h "$output" | cut -f 1)"
