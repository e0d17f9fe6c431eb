#!/usr/bin/env bash
# Everything that must hold before a change lands: set-up, formatting, lints, all tests, the quickstart in small.
# Prints the minutes that each phase took.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Tests of several threads beside each other are faster with one libtorch thread each, and give the same bits
# everywhere.
export OMP_NUM_THREADS=1

summary=()
phase() {
    local name=$1 start=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    "$@"
    summary+=("$(awk -v s=$((SECONDS - start)) -v n="$name" 'BEGIN { printf "%-12s %5.1f min", n, s / 60 }')")
}

set_up() { tools/setup_libtorch.sh --check || tools/setup_libtorch.sh; }

phase "set-up" set_up
phase "format" cargo fmt --check
lints() {
    cargo clippy --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet
    local script
    for script in tools/*.sh .ci/run; do bash -n "$script"; done
    python3 - tools/*.py <<'PY'
import ast, sys

for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        ast.parse(file.read(), path)
PY
}

phase "lints" lints
phase "cuda sources" tools/compile_cuda.sh
phase "build" cargo test --no-run
phase "tests" cargo test
phase "package" env MRB_PROFILE=dev MRB_NO_BUILD=1 tools/package_test.sh
phase "quickstart" env MRB_PROFILE=dev tools/quickstart.sh --smoke

printf '\n== minutes\n'
printf '%s\n' "${summary[@]}"
