"""Writes the files in this folder with PyTorch and numpy. `expected.json` has every tensor's shape and values.

usage: make.py FOLDER
"""
import argparse
import collections
import io
import json
import os
import pickle
import struct
import sys
import zipfile

import numpy as np
import safetensors.torch
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



def save_blobs(name, blobs, pickler):
    with open(os.path.join(folder, name), "wb") as f:
        pickler(f).dump({"blobs": blobs})
    expected[name] = {k: {"shape": list(v.shape), "dtype": None, "values": [float(x) for x in v.reshape(-1)]}
                      for k, v in blobs.items()}


# Read-only arrays lie in a pickle of protocol 5 as bytes, others as bytearray.
for array in arrays.values():
    array.flags.writeable = False
save_blobs("numpy5_bytes.pkl", arrays, lambda f: pickle.Pickler(f, 5))


class Python2(pickle._Pickler):
    """Strings and bytes as a `str` of Python 2, which is what Caffe2's files have."""
    dispatch = dict(pickle._Pickler.dispatch)

    def save_str(self, value):
        data = value if isinstance(value, bytes) else value.encode("latin1")
        short = len(data) < 256
        self.write((b"U" + struct.pack("<B", len(data)) if short else b"T" + struct.pack("<i", len(data))) + data)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_str


caffe2 = {"conv1_w": np.arange(216, dtype="<f4").reshape(2, 3, 6, 6), "conv1_bn_s": arrays["f4"], "conv1_bn_b": arrays["big"]}
save_blobs("caffe2.pkl", caffe2, lambda f: Python2(f, 2))

entries = {}
with zipfile.ZipFile(os.path.join(folder, "zip.pth")) as archive:
    for info in archive.infolist():
        entries[info.filename] = (archive.read(info), info.CRC)


def save_zip64(name):
    """The sizes and places of every entry in the fields for files over 4 GB."""
    none, local, central = 0xffffffff, io.BytesIO(), io.BytesIO()
    for entry, (data, crc) in entries.items():
        path, size, start = entry.encode(), len(data), local.tell()
        head = (45, 0, 0, 0, 33, crc, none, none, len(path))
        local.write(b"PK\3\4" + struct.pack("<HHHHHIIIHH", *head, 20) + path + struct.pack("<HHQQ", 1, 16, size, size) + data)
        central.write(b"PK\1\2" + struct.pack("<HHHHHHIIIHHHHHII", 45, *head, 28, 0, 0, 0, 0, none) + path
                      + struct.pack("<HHQQQ", 1, 24, size, size, start))
    start, size, count = local.tell(), central.tell(), len(entries)
    local.write(central.getvalue())
    local.write(b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, start))
    local.write(b"PK\6\7" + struct.pack("<IQI", 0, start + size, 1))
    local.write(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xffff, 0xffff, none, none, 0))
    with open(os.path.join(folder, name), "wb") as f:
        f.write(local.getvalue())


save_zip64("zip64.pth")
assert torch.load(os.path.join(folder, "zip64.pth")).keys() == tree.keys()
expected["zip64.pth"] = describe(tree)

# What torch.save writes on a big-endian machine.
floats = {name: value.detach().clone() for name, value in tree.items() if value.dtype == torch.float32 and value.numel() < 12}
buffer = io.BytesIO()
torch.save(floats, buffer)
with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(os.path.join(folder, "big_endian.pth"), "w") as target:
    for item in source.infolist():
        data = source.read(item)
        if "/data/" in item.filename:
            data = np.frombuffer(data, "<u4").byteswap().tobytes()
        target.writestr(zipfile.ZipInfo(item.filename), b"big" if item.filename.endswith("/byteorder") else data)
expected["big_endian.pth"] = describe(floats)

contiguous = {name: value.detach().contiguous().clone() for name, value in tree.items()}
safetensors.torch.save_file(contiguous, os.path.join(folder, "tensors.safetensors"), {"format": "pt"})
expected["tensors.safetensors"] = describe(contiguous)

# Many views that claim more than the file has.
one = torch.ones(1)
save("claims.pth", {**{"expanded%d" % i: one.expand(2 ** i, 3) for i in range(8)},
                    **{"shared%d" % i: tree["shared_a"][i % 4:, i % 3:] for i in range(16)}})

save("namespace.pth", argparse.Namespace(lr=0.1))
save("module.pth", torch.nn.Linear(1, 1))
with open(os.path.join(folder, "expected.json"), "w") as f:
    json.dump(expected, f, indent=1)
