"""What compare_gpu.py and compare_speed.py share: fair weights, the objects to train on, runs of `benchmark`."""
import json
import os
import subprocess
import sys

OBJECTS = 8


def tame(model):
    """Without training the residual sums grow until every score is 0 or 1, and ties exceed the limit of detections."""
    for name, value in model.state_dict().items():
        if name.endswith("bn3.weight"):
            value.fill_(0.2)


def made_up_objects(classes, height, width):
    """Boxes and labels of the objects in src/cli/benchmark/training.rs, whose masks are their rectangles."""
    boxes = []
    for k in range(OBJECTS):
        x, y = k % 4 * width / 4 + 4, k // 4 * height / 2 + 4
        boxes.append([x, y, x + 0.8 * width / 4, y + 0.8 * height / 2])
    return boxes, [1 + k % (classes - 1) for k in range(OBJECTS)]


def run_benchmark(program, folder, arguments, training, environment=None):
    """The report of `benchmark`, with its seconds as "seconds"; ends the script where it fails."""
    report = os.path.join(folder, "report.json")
    command = [program, *arguments[0], "--json", report, *(["--training"] if training else []), *arguments[1]]
    variables = dict(os.environ, **(environment or {}))
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=variables)
    if finished.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{finished.stdout}")
    with open(report) as file:
        result = json.load(file)
    result["seconds"] = result["step_s" if training else "forward_s"]
    return result
