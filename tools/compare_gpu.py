#!/usr/bin/env python3
"""Times torchvision's maskrcnn_resnet50_fpn and this project's `benchmark` in turns on one GPU, on the same weights.

    MRB_PYTHON=... ; $MRB_PYTHON tools/compare_gpu.py --benchmark target/release/benchmark [--json FILE] [--rounds 3]

Inference with batches of 1 and 8 and training with batches of 2 and 16, at 800x1333, with TF32 and in half precision
(autocast on both sides). Each round runs torchvision, then `benchmark`; nothing else should use the GPU.

The two networks agree layer by layer: the configuration is e2e_mask_rcnn_R_50_FPN_1x.yaml with the stride of a bottleneck
in its 3x3 convolution (STRIDE_IN_1X1 False), torchvision's has 81 classes. Weights are drawn at random by torchvision,
renamed and written once. What differs, as each side has its own conventions, and costs nearly the same:
- anchors here are shifted by half a cell, and boxes count their last pixel, so proposals are not the same boxes;
- torchvision keeps the best proposals of an image after one NMS over all levels, here each level has its own NMS first;
  both keep 1000 for inference and 2000 for training;
- the frozen batch norms of torchvision have an epsilon, which is added to the variance in the written weights.
Random weights score every class alike, so that 80,000 boxes of an image would go into the last NMS (which takes torchvision
most of its time: --candidates 80000 shows it). The score threshold is set to leave about 1,000, as a trained model does, and
both sides return 100 detections an image. (Here equal scores at the limit are all kept, as in the original: in 16 bits
there may be some more. A difference of more than 2 % ends the comparison.) The images are noise. Resizing, normalising and
pasting masks into the image are left out on both sides (`paste masks` below is not part of the rate).
"""
import argparse
import json
import os
import statistics
import sys
import tempfile
import time

import torch
import torchvision
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from peers import OBJECTS, made_up_objects, run_benchmark, tame

CLASSES = 81


def build_peer(height, width):
    # What maskrcnn_resnet50_fpn builds for pretrained weights: frozen batch norms, the first two stages not trained.
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    model = MaskRCNN(
        backbone,
        num_classes=CLASSES,
        min_size=min(height, width),
        max_size=max(height, width),
        box_score_thresh=0.0,
        _skip_resize=True,
        image_mean=[0.0, 0.0, 0.0],
        image_std=[1.0, 1.0, 1.0],
    )
    tame(model)
    # It only pastes masks and undoes the resizing that is left out.
    model.transform.postprocess = lambda result, _shapes, _sizes: result
    return model


def our_name(name):
    """torchvision's name of a parameter as the original's."""
    parts = name.split(".")
    if name.startswith("backbone.body."):
        rest = name[len("backbone.body.") :]
        return "backbone.body." + (rest if rest.startswith("layer") else "stem." + rest)
    if name.startswith("backbone.fpn."):
        kind = {"inner_blocks": "fpn_inner", "layer_blocks": "fpn_layer"}[parts[2]]
        return f"backbone.fpn.{kind}{int(parts[3]) + 1}.{parts[-1]}"
    if name.startswith("rpn.head.conv."):
        return "rpn.head.conv." + parts[-1]
    if name.startswith("roi_heads.mask_head."):
        return f"roi_heads.mask.feature_extractor.mask_fcn{int(parts[2]) + 1}.{parts[-1]}"
    for theirs, ours in (
        ("roi_heads.box_head.", "roi_heads.box.feature_extractor."),
        ("roi_heads.box_predictor.", "roi_heads.box.predictor."),
        ("roi_heads.mask_predictor.", "roi_heads.mask.predictor."),
    ):
        if name.startswith(theirs):
            return ours + name[len(theirs) :]
    return name


def converted(model):
    epsilon = {
        name: module.eps
        for name, module in model.named_modules()
        if isinstance(module, FrozenBatchNorm2d)
    }
    state = {}
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value = value + epsilon[name[: -len(".running_var")]]
        state[our_name(name)] = value.detach().cpu().clone()
    return state


def made_up_targets(batch, height, width, device):
    boxes, labels = made_up_objects(CLASSES, height, width)
    masks = torch.zeros(OBJECTS, height, width, dtype=torch.uint8)
    for mask, box in zip(masks, boxes):
        left, top, right, bottom = (int(v) for v in box)
        mask[top:bottom, left:right] = 1
    target = {
        "boxes": torch.tensor(boxes, device=device),
        "labels": torch.tensor(labels, device=device),
        "masks": masks.to(device),
    }
    return [target] * batch


def score_threshold(model, image, candidates):
    """The score that about so many boxes of an image exceed."""
    scores = []
    hook = model.roi_heads.box_predictor.register_forward_hook(
        lambda _module, _inputs, outputs: scores.append(outputs[0].softmax(-1)[:, 1:].flatten())
    )
    with torch.inference_mode():
        model.eval()([image])
    hook.remove()
    return scores[0].topk(min(candidates, scores[0].numel())).values[-1].item()


def noise(size, device):
    return 50.0 * torch.randn(3, *size, device=device)  # as `benchmark` draws it


class Parts:
    """Seconds of the backbone, the RPN and the heads, the device being waited for at each border."""

    def __init__(self, model, synchronize):
        self.seconds, self.started, self.synchronize = {}, {}, synchronize
        self.hooks = []
        for name in ("backbone", "rpn", "roi_heads"):
            module = getattr(model, name)
            self.hooks.append(module.register_forward_pre_hook(lambda *_, name=name: self.begin(name)))
            self.hooks.append(module.register_forward_hook(lambda *_, name=name: self.end(name)))

    def begin(self, name):
        self.synchronize()
        self.started[name] = time.perf_counter()

    def end(self, name):
        self.synchronize()
        self.seconds.setdefault(name, []).append(time.perf_counter() - self.started[name])

    def medians(self):
        for hook in self.hooks:
            hook.remove()
        return {name: statistics.median(values) for name, values in self.seconds.items()}


class Peer:
    def __init__(self, model, device, size, channels_last):
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.model, self.device, self.size = model.to(device, memory_format=self.format), device, size
        self.cuda = device.type == "cuda"

    def synchronize(self):
        if self.cuda:
            torch.cuda.synchronize()

    def run(self, training, batch, dtype, runs, warmup):
        """Seconds of each run, detections of the last, peak memory in MiB, seconds by part."""
        images = [noise(self.size, self.device)] * batch
        targets = made_up_targets(batch, *self.size, self.device) if training else None
        self.model.train(training)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9, weight_decay=1e-4)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.cuda and dtype == "float16")
        mixed = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(dtype)
        autocast = torch.autocast(self.device.type, dtype=mixed, enabled=mixed is not None)
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

        def step():
            with autocast:
                losses = self.model(images, targets)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(sum(losses.values())).backward()
            scaler.step(optimizer)
            scaler.update()

        def infer():
            with torch.inference_mode(), autocast:
                return sum(len(result["scores"]) for result in self.model(images))

        seconds, found = [], None
        for number in range(warmup + runs):
            self.synchronize()
            start = time.perf_counter()
            found = step() if training else infer()
            self.synchronize()
            if number >= warmup:
                seconds.append(time.perf_counter() - start)
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.cuda else None
        # Once more for the parts, so that waiting at their borders does not count above.
        parts = Parts(self.model, self.synchronize)
        for _ in range(min(runs, 3)):
            step() if training else infer()
        by_part = parts.medians()
        if self.cuda:
            torch.cuda.empty_cache()  # the memory is the other side's now
        return {"seconds": seconds, "detections": found, "peak_memory_mb": peak, "parts": by_part}


def ours(args, folder, weights, training, batch, dtype):
    options = ["--config-file", args.config_file, "--image-size", f"{args.size[0]}x{args.size[1]}", "--tf32", "on"]
    options += ["--batch", str(batch), "--runs", str(args.runs), "--warmup", str(args.warmup)]
    overrides = ["MODEL.DEVICE", args.device, "MODEL.WEIGHT", weights, "DTYPE", dtype]
    overrides += ["MODEL.ROI_HEADS.SCORE_THRESH", f"{args.threshold:.9f}", "MODEL.RESNETS.STRIDE_IN_1X1", "False"]
    overrides += ["MODEL.RPN.FPN_POST_NMS_PER_BATCH", "False"]
    result = run_benchmark(args.benchmark, folder, (options, overrides), training)
    chosen = {name: result[name] for name in ("seconds", "detections", "peak_memory_mb", "waits_for_gpu")}
    return dict(chosen, parts=result["phases"])


def size(text):
    height, width = (int(side) for side in text.split("x"))
    return height, width


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmark", default="target/release/benchmark")
    parser.add_argument("--config-file", default="configs/e2e_mask_rcnn_R_50_FPN_1x.yaml")
    parser.add_argument("--device", default="cuda", help="cpu tries the program, not the speed")
    parser.add_argument("--size", type=size, default=(800, 1333), help="HEIGHTxWIDTH")
    parser.add_argument("--inference", type=int, nargs="*", default=[1, 8], help="batches")
    parser.add_argument("--training", type=int, nargs="*", default=[2, 16], help="batches")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float16"])
    parser.add_argument("--candidates", type=int, default=1000, help="boxes of an image for the last NMS")
    parser.add_argument("--channels-last", action="store_true", help="for torchvision too; here it is the default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=10, help="timed runs of each side in a round")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--json", help="file for the numbers")
    args = parser.parse_args()

    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("SKIPPED: no GPU that torch can use")
        return
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = False  # as in `benchmark`
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, torchvision {torchvision.__version__}, {args.size[0]}x{args.size[1]}")

    model = build_peer(*args.size)
    peer = Peer(model, device, args.size, args.channels_last)
    args.threshold = score_threshold(model, noise(args.size, device), args.candidates)
    model.roi_heads.score_thresh = args.threshold
    results = []
    with tempfile.TemporaryDirectory() as folder:
        weights = os.path.join(folder, "weights.pth")
        torch.save({"model": converted(model)}, weights)
        cases = [(False, batch) for batch in args.inference] + [(True, batch) for batch in args.training]
        for training, batch in cases:
            for dtype in args.dtypes:
                what = "training" if training else "inference"
                rounds = []
                for _ in range(args.rounds):
                    theirs = peer.run(training, batch, dtype, args.runs, args.warmup)
                    own = ours(args, folder, weights, training, batch, dtype)
                    if not training and abs(theirs["detections"] - own["detections"]) > 0.02 * theirs["detections"]:
                        sys.exit(
                            f"{what}, batch {batch}, {dtype}: torchvision returns {theirs['detections']} detections, "
                            f"`benchmark` {own['detections']}"
                        )
                    rounds.append((theirs, own))
                rate = [batch / statistics.median(s for r in rounds for s in r[side]["seconds"]) for side in (0, 1)]
                memory = [rounds[-1][side]["peak_memory_mb"] or float("nan") for side in (0, 1)]
                print(
                    f"{what}, batch {batch}, {dtype}: torchvision {rate[0]:.2f} images/s, {memory[0]:.0f} MiB; "
                    f"here {rate[1]:.2f} images/s, {memory[1]:.0f} MiB, {rounds[-1][1]['waits_for_gpu']} waits; "
                    f"ratio {rate[1] / rate[0]:.2f}; detections {', '.join(str(r['detections']) for r in rounds[-1])}"
                )
                for side, whose in enumerate(("torchvision", "here")):
                    parts = rounds[-1][side]["parts"]
                    print(f"    {whose}: " + ", ".join(f"{n} {s * 1e3:.1f} ms" for n, s in parts.items()), flush=True)
                results.append(
                    {"what": what, "batch": batch, "dtype": dtype, "rounds": [{"torchvision": a, "here": b} for a, b in rounds]}
                )
                if args.json:  # after each case, so that whoever runs out of time has the others
                    report = {"device": name, "torch": torch.__version__, "size": args.size, "candidates": args.candidates}
                    report["results"] = results
                    with open(args.json, "w") as file:
                        json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
