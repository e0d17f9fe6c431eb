#!/usr/bin/env python3
"""Lets the PyTorch original go on from a checkpoint that was written here. Run by `cargo test --test golden loading`
when MRB_PYTHON (a Python with torch) and MRB_ORIGINAL (a checkout of the original's Res2Net fork) are set.

    $MRB_PYTHON tools/resume_original.py ORIGINAL CONFIG OUTPUT_DIR BATCH.pth SEED ... > report.json

OUTPUT_DIR has the last_checkpoint to go on from; one iteration is run for each SEED, always on the same batch, and a
checkpoint is left there as the original writes it. The report has the iteration that was found, losses and rates.
"""
import json
import logging
import os
import sys
import types

import numpy as np
import torch
import torch.utils.model_zoo

from compare_speed import apex, native_extension


def main():
    original, config_file, output_dir, batch_file = sys.argv[1:5]
    seeds = [int(seed) for seed in sys.argv[5:]]
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.WARNING)
    sys.path.insert(0, os.path.abspath(original))
    sys.modules["apex"], sys.modules["apex.amp"] = apex()
    # What the fork uses and torch or numpy has no longer: the version of Python, and downloads, which are not used
    # here.
    torch._six = types.SimpleNamespace(PY3=True)
    np.float = float
    for name in ["_download_url_to_file", "urlparse", "HASH_REGEX"]:
        setattr(torch.utils.model_zoo, name, None)
    sys.modules["maskrcnn_benchmark._C"] = native_extension()
    import maskrcnn_benchmark

    maskrcnn_benchmark._C = sys.modules["maskrcnn_benchmark._C"]
    from maskrcnn_benchmark.config import cfg
    from maskrcnn_benchmark.modeling.detector import build_detection_model
    from maskrcnn_benchmark.solver import make_lr_scheduler, make_optimizer
    from maskrcnn_benchmark.structures.bounding_box import BoxList
    from maskrcnn_benchmark.structures.image_list import ImageList
    from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
    from maskrcnn_benchmark.utils.checkpoint import DetectronCheckpointer

    cfg.merge_from_file(config_file)
    model = build_detection_model(cfg).train()
    optimizer = make_optimizer(cfg, model)
    scheduler = make_lr_scheduler(cfg, optimizer)
    checkpointer = DetectronCheckpointer(cfg, model, optimizer, scheduler, output_dir, save_to_disk=True)
    extra = checkpointer.load("/no/such/file.pth")

    batch = torch.load(batch_file, weights_only=True)
    images = ImageList(batch["images"], [tuple(size) for size in batch["image_sizes"]])
    targets = []
    for item, (height, width) in zip(batch["targets"], images.image_sizes):
        target = BoxList(item["boxes"], (width, height), mode="xyxy")
        target.add_field("labels", item["labels"])
        target.add_field("masks", SegmentationMask(item["polygons"], (width, height)))
        targets.append(target)

    report = {"iteration": extra["iteration"], "extra": sorted(extra), "steps": []}
    iteration = extra["iteration"]
    for seed in seeds:
        iteration += 1
        torch.manual_seed(seed)
        rate = optimizer.param_groups[0]["lr"]
        losses = model(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        scheduler.step()
        report["steps"].append({"rate": rate, "losses": {name: loss.item() for name, loss in losses.items()}})
    extra.update(iteration=iteration)
    checkpointer.save("model_{:07d}".format(iteration), **extra)
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
