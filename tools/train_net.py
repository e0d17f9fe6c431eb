#!/usr/bin/env python3
"""Runs the program train_net with the same arguments, so that commands and launchers of the original keep working."""
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))

for profile in ("release", "debug"):
    program = os.path.join(TARGET, profile, "train_net")
    if os.access(program, os.X_OK):
        os.execv(program, [program] + sys.argv[1:])
sys.exit("train_net is not built yet: run  cargo build --release  in " + ROOT)
