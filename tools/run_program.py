"""What train_net.py and test_net.py share: runs a built program with the same arguments."""
import os
import sys


def run(name):
    """Replaces this process by target/release/NAME, or by target/debug/NAME where only that one is built."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target"))
    for profile in ("release", "debug"):
        program = os.path.join(target, profile, name)
        if os.access(program, os.X_OK):
            os.execv(program, [program] + sys.argv[1:])
    sys.exit(name + " is not built yet: run  cargo build --release  in " + root)
