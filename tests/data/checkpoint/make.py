"""Writes the files in this folder with PyTorch and numpy. `expected.json` has every tensor's shape and values.

usage: make.py FOLDER
"""
import argparse
import collections
import json
import os
import pickle
import sys

import numpy as np
import torch

folder = sys.argv[1]
expected = {}


def values(t):
    return [float(v) for v in t.to(torch.float64).reshape(-1)]


def describe(tree):
    return {k: {"shape": list(v.shape), "dtype": str(v.dtype).replace("torch.", ""), "values": values(v)}
            for k, v in tree.items() if isinstance(v, torch.Tensor)}


def tensors():
    torch.manual_seed(7)
    base = torch.randn(4, 6)
    out = collections.OrderedDict()
    for name in ["float16", "bfloat16", "float32", "float64"]:
        out[name] = base.to(getattr(torch, name))
    for name in ["uint8", "int8", "int16", "int32", "int64"]:
        out[name] = torch.arange(6).to(getattr(torch, name)).view(2, 3)
    out["bool"] = torch.tensor([True, False, True])
    out["negative"] = torch.tensor([-1, -128], dtype=torch.int8)
    out["empty"] = torch.zeros(0)
    out["empty_2d"] = torch.zeros(3, 0)
    out["scalar"] = torch.tensor(2.5)
    out["transposed"] = base.t()
    out["column"] = base[:, 2]
    out["shared_a"] = base
    out["shared_b"] = base[1:3, 1:]
    out["expanded"] = torch.tensor([1.0, 2.0]).expand(3, 2)
    out["parameter"] = torch.nn.Parameter(torch.ones(2))
    out["channels_last"] = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    return out


def save(name, value, **kwargs):
    torch.save(value, os.path.join(folder, name), **kwargs)


tree = tensors()
save("zip.pth", tree)
save("legacy.pth", tree, _use_new_zipfile_serialization=False)
expected["zip.pth"] = expected["legacy.pth"] = describe(tree)

model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for _ in range(2):
    model(torch.ones(4, 3)).sum().backward()
    optimizer.step()
scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
save("training.pth", {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                      "scheduler": scheduler.state_dict(), "iteration": 2})
expected["training.pth"] = describe(model.state_dict())

arrays = {
    "f4": np.arange(6, dtype="<f4").reshape(2, 3),
    "f8": np.linspace(-1, 1, 5),
    "f2": np.arange(3).astype("<f2"),
    "i8": np.array([-5, 1 << 40]),
    "u1": np.array([0, 255], dtype=np.uint8),
    "bool": np.array([True, False]),
    "big": np.arange(4).astype(">f4"),
    "fortran": np.asfortranarray(np.arange(6, dtype="<f4").reshape(2, 3)),
    "empty": np.zeros((0, 4), dtype="<f4"),
    "view": np.arange(12, dtype="<f4").reshape(3, 4)[:, ::2],
    "permuted": np.arange(24, dtype="<f4").reshape(2, 3, 4).transpose(2, 0, 1),
}
for protocol in (0, 2, 4, 5):
    name = "numpy%d.pkl" % protocol
    with open(os.path.join(folder, name), "wb") as f:
        pickle.dump({"blobs": arrays, "scalar": np.float64(1.5), "count": np.int64(3), "bytes": b"\xff\x00"}, f, protocol)
    expected[name] = {k: {"shape": list(v.shape), "dtype": None, "values": [float(x) for x in v.reshape(-1)]}
                      for k, v in arrays.items()}

save("namespace.pth", argparse.Namespace(lr=0.1))
save("module.pth", torch.nn.Linear(1, 1))
with open(os.path.join(folder, "expected.json"), "w") as f:
    json.dump(expected, f, indent=1)
