#!/usr/bin/env python3
"""Runs the program test_net with the same arguments, so that commands and launchers of the original keep working."""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))

for profile in ("release", "debug"):
    program = os.path.join(TARGET, profile, "test_net")
    if os.access(program, os.X_OK):
        os.execv(program, [program] + sys.argv[1:])
sys.exit("test_net is not built yet: run  cargo build --release  in " + ROOT)
