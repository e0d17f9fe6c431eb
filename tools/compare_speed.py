#!/usr/bin/env python3
"""Times the PyTorch original and this project's `benchmark` in turns, on the same weights and image.

    MRB_PYTHON=... ; $MRB_PYTHON tools/compare_speed.py --original DIR --config-file FILE [--image FILE] [--rounds 5]
        [--training]

DIR is a checkout of maskrcnn-benchmark or of its Res2Net fork. Its native extension need not be compiled: RoIAlign and
NMS come from torchvision. FILE is one of its YAML files; the same file is given to `benchmark`. The weights are drawn at
random by the original and written once, so SCORE_THRESH is 0 and both sides return 100 detections. Each round runs the
original once and then `benchmark` once (after a warm-up of its own); nothing else should run on the machine.
With --training it is training steps (losses, gradients, SGD) on the objects that `benchmark --training` makes up.
"""
import argparse
import os
import statistics
import sys
import tempfile
import time
import types

import numpy as np
import torch
import torchvision
from PIL import Image

from peers import made_up_objects, run_benchmark, tame


def native_extension():
    """A stand-in for `maskrcnn_benchmark._C`: the two operators that these models call."""
    module = types.ModuleType("maskrcnn_benchmark._C")

    def nms(boxes, scores, threshold):
        # The original counts pixels with inclusive corners.
        shifted = boxes.clone()
        shifted[:, 2:] += 1
        return torchvision.ops.nms(shifted, scores, threshold).sort()[0]

    def roi_align_forward(feature, rois, scale, height, width, ratio):
        return torch.ops.torchvision.roi_align(feature, rois, scale, height, width, ratio, False)

    def roi_align_backward(grad, rois, scale, height, width, *shape_and_ratio):
        return torch.ops.torchvision._roi_align_backward(grad, rois, scale, height, width, *shape_and_ratio, False)

    module.nms = nms
    module.roi_align_forward = roi_align_forward
    module.roi_align_backward = roi_align_backward
    module.__getattr__ = lambda name: None
    return module


def apex():
    """A stand-in for apex, which the newer repository imports."""
    module, amp = types.ModuleType("apex"), types.ModuleType("apex.amp")
    amp.float_function = lambda function: function
    module.amp = amp
    return module, amp


def load_original(folder, config_file, overrides):
    sys.path.insert(0, folder)
    sys.modules["apex"], sys.modules["apex.amp"] = apex()
    sys.modules["maskrcnn_benchmark._C"] = native_extension()
    np.float = float  # removed from numpy in 1.24
    import maskrcnn_benchmark

    maskrcnn_benchmark._C = sys.modules["maskrcnn_benchmark._C"]
    from maskrcnn_benchmark.config import cfg
    from maskrcnn_benchmark.modeling.detector import build_detection_model

    cfg.merge_from_file(config_file)
    cfg.merge_from_list(overrides)
    model = build_detection_model(cfg).eval()
    tame(model)
    return cfg, model


def network_input(cfg, path):
    image = Image.open(path).convert("RGB")
    scale = cfg.INPUT.MIN_SIZE_TEST / min(image.size)
    if scale * max(image.size) > cfg.INPUT.MAX_SIZE_TEST:
        scale = cfg.INPUT.MAX_SIZE_TEST / max(image.size)
    size = tuple(int(side * scale) for side in image.size)
    pixels = torch.from_numpy(np.array(image.resize(size, Image.BILINEAR))[:, :, ::-1].copy()).permute(2, 0, 1).float()
    return pixels - torch.tensor(cfg.INPUT.PIXEL_MEAN).view(3, 1, 1)


def made_up_target(cfg, height, width):
    from maskrcnn_benchmark.structures.bounding_box import BoxList
    from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

    boxes, labels = made_up_objects(cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES, height, width)
    target = BoxList(torch.tensor(boxes), (width, height), mode="xyxy")
    target.add_field("labels", torch.tensor(labels))
    polygons = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes]
    target.add_field("masks", SegmentationMask(polygons, (width, height)))
    return target


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", required=True)
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--image", help="a picture; without it one of 800x1066 random pixels")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--training", action="store_true", help="training steps instead of inference")
    parser.add_argument("--benchmark", default="target/release/benchmark")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    common = ["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.SCORE_THRESH", "0.0"]
    cfg, model = load_original(os.path.abspath(args.original), args.config_file, common + ["MODEL.WEIGHT", ""])

    with tempfile.TemporaryDirectory() as folder:
        weights = os.path.join(folder, "weights.pth")
        torch.save({"model": model.state_dict()}, weights)
        picture = args.image
        if picture is None:
            picture = os.path.join(folder, "random.png")
            noise = np.random.default_rng(0).integers(0, 256, (800, 1066, 3), dtype=np.uint8)
            Image.fromarray(noise).save(picture)
        pixels = network_input(cfg, picture)
        print(f"image {tuple(pixels.shape)}, {args.threads} threads, torch {torch.__version__}")

        from maskrcnn_benchmark.structures.image_list import to_image_list

        target = made_up_target(cfg, *pixels.shape[1:])
        optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.0, momentum=0.9)
        model.train(args.training)

        def original_step():
            start = time.perf_counter()
            losses = model(to_image_list([pixels], cfg.DATALOADER.SIZE_DIVISIBILITY), [target])
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            return time.perf_counter() - start, None

        def original():
            if args.training:
                return original_step()
            with torch.no_grad():
                start = time.perf_counter()
                result = model(to_image_list([pixels], cfg.DATALOADER.SIZE_DIVISIBILITY))
                return time.perf_counter() - start, len(result[0])

        def ours():
            options = ["--config-file", args.config_file, "--image", picture, "--runs", "1", "--warmup", "1"]
            options += ["--threads", str(args.threads)]
            overrides = common + ["MODEL.WEIGHT", weights]
            threads = {"OMP_NUM_THREADS": str(args.threads)}
            result = run_benchmark(args.benchmark, folder, (options, overrides), args.training, threads)
            return result["seconds"][0], result["detections"]

        original()
        rows = []
        for number in range(args.rounds):
            theirs, own = original(), ours()
            rows.append((theirs[0], own[0]))
            found = "" if args.training else f", {theirs[1]} and {own[1]} detections"
            print(f"round {number + 1}: original {theirs[0]:.3f} s, here {own[0]:.3f} s{found}")
            if theirs[1] != own[1]:
                sys.exit("the two sides return different numbers of detections")
        theirs, own = (statistics.median(column) for column in zip(*rows))
        print(f"median: original {theirs:.3f} s, here {own:.3f} s, ratio {theirs / own:.2f}")


if __name__ == "__main__":
    main()
