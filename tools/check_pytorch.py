#!/usr/bin/env python3
"""Files of weights between real PyTorch and this project, in both directions; run by check_pytorch.sh.

    $MRB_PYTHON tools/check_pytorch.py --bin DIR [--checkpoint FILE] [--large]

Every kind of file that torch, numpy and safetensors write is read by `convert_weights` and written again as .pth, .pkl
and .safetensors, which Python reads and compares bit by bit. FILE is a checkpoint of `train_net`: torch's own optimizer
takes its state over.
"""
import argparse
import collections
import io
import os
import pickle
import subprocess
import sys
import tempfile
import time
import zipfile

import numpy as np
import torch

try:
    import safetensors.torch
except ImportError:
    safetensors = None


def tensors():
    """Element types, layouts and sizes; views that share a storage, and one that is larger than its storage."""
    torch.manual_seed(11)
    base = torch.randn(6, 5)
    out = collections.OrderedDict()
    for name in ["float16", "bfloat16", "float32", "float64"]:
        out[name] = base.to(getattr(torch, name))
    for name in ["uint8", "int8", "int16", "int32", "int64"]:
        out[name] = torch.arange(-3, 9).to(getattr(torch, name)).view(3, 4)
    out["bool"] = torch.tensor([True, False, True])
    out["special"] = torch.tensor([float("inf"), float("-inf"), 0.0, -0.0, 1e-45])
    out["scalar"] = torch.tensor(2.5)
    out["empty"] = torch.zeros(0)
    out["empty_3d"] = torch.zeros(4, 0, 2)
    out["transposed"] = base.t()
    out["step"] = base[1:6:2, ::3]
    out["shared"] = base
    out["shared_part"] = base[2:4]
    out["expanded"] = torch.tensor([[1.0], [2.0]]).expand(2, 7)
    out["channels_last"] = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    out["parameter"] = torch.nn.Parameter(torch.ones(3))
    return out


def plain(tree):
    return {name: value.detach() for name, value in tree.items()}


def big_endian(tree):
    """What torch.save writes on a big-endian machine. Storages of one element type only."""
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    out = io.BytesIO()
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as target:
        for item in source.infolist():
            data = source.read(item)
            if "/data/" in item.filename:
                data = np.frombuffer(data, "<u4").byteswap().tobytes()
            elif item.filename.endswith("/byteorder"):
                data = b"big"
            target.writestr(item.filename, data)
    return out.getvalue()


def sources(folder):
    """(name, path, what Python has in it) of every kind of file."""
    tree = tensors()
    floats = {name: value.detach().clone() for name, value in tree.items() if value.dtype == torch.float32}

    def path(name):
        return os.path.join(folder, name)

    def saved(name, value, **options):
        torch.save(value, path(name), **options)
        return path(name)

    yield "zip", saved("zip.pth", tree), plain(tree)
    yield "zip, below model", saved("model.pth", {"model": tree, "iteration": 3}), plain(tree)
    yield "zip, below state_dict", saved("state_dict.pth", {"state_dict": tree, "epoch": 3}), plain(tree)
    wrapped = collections.OrderedDict(("module." + name, value) for name, value in tree.items())
    yield "zip, DataParallel", saved("module.pth", wrapped), plain(tree)
    yield "stream", saved("stream.pth", tree, _use_new_zipfile_serialization=False), plain(tree)
    for protocol in (3, 4, 5):
        name = "zip, pickle protocol {}".format(protocol)
        yield name, saved("zip{}.pth".format(protocol), tree, pickle_protocol=protocol), plain(tree)
    with open(path("big.pth"), "wb") as f:
        f.write(big_endian(floats))
    assert same(plain(torch.load(path("big.pth"), weights_only=True)), floats), "torch itself reads it otherwise"
    yield "zip, big-endian", path("big.pth"), floats
    arrays = {name: value.detach().numpy() for name, value in tree.items() if value.dtype != torch.bfloat16}
    expected = {name: torch.from_numpy(np.ascontiguousarray(value)).reshape(value.shape) for name, value in arrays.items()}
    for protocol in range(6):
        file = path("numpy{}.pkl".format(protocol))
        with open(file, "wb") as f:
            pickle.dump({"model": arrays}, f, protocol)
        yield "numpy, pickle protocol {}".format(protocol), file, expected
    swapped = {name: value.astype(value.dtype.newbyteorder(">")) for name, value in arrays.items()}
    with open(path("swapped.pkl"), "wb") as f:
        pickle.dump({"model": swapped}, f, 2)
    yield "numpy, big-endian", path("swapped.pkl"), expected
    if safetensors is not None:
        contiguous = {name: value.contiguous().clone() for name, value in plain(tree).items()}
        safetensors.torch.save_file(contiguous, path("in.safetensors"))
        yield "safetensors", path("in.safetensors"), contiguous


def same(one, other):
    """The same names, types, shapes and bits."""
    if sorted(one) != sorted(other):
        return False
    for name, value in one.items():
        a, b = value.detach().contiguous(), other[name].detach().contiguous()
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.numel() and a.flatten().view(torch.uint8).tolist() != b.flatten().view(torch.uint8).tolist():
            return False
    return True


class Checks:
    def __init__(self, programs):
        self.programs = programs
        self.failed = 0

    def report(self, name, passed):
        print("{}: {}".format("ok" if passed else "FAILED", name))
        self.failed += not passed

    def convert(self, *arguments):
        command = [os.path.join(self.programs, "convert_weights"), *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True)
        if done.returncode != 0:
            print(done.stderr.strip())
        return done.returncode == 0

    def read_and_write(self, folder):
        for number, (name, path, expected) in enumerate(sources(folder)):
            out = os.path.join(folder, "out{}".format(number))
            back = self.convert(path, out + ".pth") and torch.load(out + ".pth", weights_only=True)["model"]
            self.report("{} -> .pth -> torch.load(weights_only=True)".format(name), bool(back) and same(back, expected))
            if back:
                mapped = torch.load(out + ".pth", weights_only=True, mmap=True)["model"]
                self.report("{} -> .pth -> torch.load(mmap=True)".format(name), same(mapped, expected))
            if safetensors is not None:
                back = self.convert(path, out + ".safetensors") and safetensors.torch.load_file(out + ".safetensors")
                self.report("{} -> .safetensors -> load_file".format(name), bool(back) and same(back, expected))
            arrays = {name: value for name, value in expected.items() if value.dtype != torch.bfloat16}
            if len(arrays) == len(expected) and self.convert(path, out + ".pkl"):
                with open(out + ".pkl", "rb") as f:
                    back = {name: torch.from_numpy(value.copy()) for name, value in pickle.load(f)["model"].items()}
                self.report("{} -> .pkl -> pickle.load".format(name), same(back, expected))

    def checkpoint(self, path):
        """A checkpoint of `train_net`: torch's SGD goes on with it."""
        loaded = torch.load(path, weights_only=True)
        self.report("{}: keys of the original".format(path), list(loaded)[:4] == ["model", "optimizer", "scheduler", "iteration"])
        state = loaded["optimizer"]
        # The optimizer knows parameters by number: in the order of the model, without what is never trained.
        trained = [value for name, value in loaded["model"].items() if "anchor_generator" not in name]
        parameters = [torch.nn.Parameter(value.clone()) for value in trained]
        optimizer = torch.optim.SGD([{"params": [p]} for p in parameters], lr=1.0, momentum=0.5)
        optimizer.load_state_dict(state)
        taken = all(
            torch.equal(optimizer.state[p]["momentum_buffer"], state["state"][number]["momentum_buffer"])
            and p.shape == optimizer.state[p]["momentum_buffer"].shape
            for number, p in enumerate(parameters)
        )
        self.report("{}: torch.optim.SGD takes over {} momenta".format(path, len(parameters)), taken)
        group = optimizer.param_groups[0]
        rates = (group["lr"], group["momentum"]) == (state["param_groups"][0]["lr"], state["param_groups"][0]["momentum"])
        before = parameters[0].detach().clone()
        # The step changes the loaded momentum in place.
        momentum = state["state"][0]["momentum_buffer"] * group["momentum"] + 1 + group["weight_decay"] * before
        parameters[0].grad = torch.ones_like(parameters[0])
        optimizer.step()
        close = torch.allclose(parameters[0], before - group["lr"] * momentum, atol=1e-6)
        self.report("{}: its next step uses momentum, rate and decay".format(path), rates and close)
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1])
        schedule.load_state_dict(loaded["scheduler"])
        self.report("{}: a torch scheduler takes over".format(path), schedule.last_epoch == loaded["iteration"])

    def large(self, folder):
        """Sizes and places over 4 GB, and the memory that they take here."""
        def path(name):
            return os.path.join(folder, name)

        count = 2**32 + 16
        zeros = torch.zeros(count, dtype=torch.uint8)
        zeros[-1] = 7
        values = torch.arange(5.0)
        torch.save({"zeros": zeros, "values": values}, path("large.pth"))
        del zeros
        loaders = {
            ".pth": lambda file: torch.load(file, weights_only=True, mmap=True)["model"],
            ".pkl": self.arrays,
        }
        for ending, load in loaders.items():
            peak = self.convert_measured(path("large.pth"), path("out" + ending))
            back = load(path("out" + ending)) if peak else None
            passed = bool(back) and back["zeros"].shape == (count,) and int(back["zeros"][-1]) == 7
            passed = passed and torch.equal(back["values"], values)
            self.report("a tensor of {:.1f} GB -> {} -> Python".format(count / 1e9, ending), passed)
            del back
            os.remove(path("out" + ending))

        # Five tensors of 0.8 GB, one of which has to be put in order.
        shape = (20000, 10000)
        tree = {"part{}".format(i): torch.zeros(shape) for i in range(4)}
        tree["transposed"] = torch.zeros(shape[::-1]).t()
        torch.save(tree, path("large.pth"))
        model, tensor = 5 * tree["part0"].nbytes, tree["part0"].nbytes
        del tree
        for ending in [".pth", ".safetensors", ".pkl"]:
            peak = self.convert_measured(path("large.pth"), path("out" + ending))
            text = "{:.1f} GB of {:.1f} GB each -> {}: at most {:.2f} GB of memory (limit: file and one tensor)"
            self.report(text.format(model / 1e9, tensor / 1e9, ending, peak / 1e9), 0 < peak < model + tensor + 2e8)
            os.remove(path("out" + ending))

    @staticmethod
    def arrays(file):
        with open(file, "rb") as f:
            return {name: torch.from_numpy(value) for name, value in pickle.load(f)["model"].items()}

    def convert_measured(self, source, target):
        """The most bytes of memory that the conversion held at once, pages of the file included; 0 if it failed."""
        process = subprocess.Popen([os.path.join(self.programs, "convert_weights"), source, target])
        peak = 0
        while process.poll() is None:
            with open("/proc/{}/status".format(process.pid)) as status:
                lines = [line.split()[1] for line in status if line.startswith("VmHWM:")]
            # An ended process has no such line.
            peak = max([peak, *(int(kib) * 1024 for kib in lines)])
            time.sleep(0.01)
        return peak if process.returncode == 0 else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, help="folder of the built programs")
    parser.add_argument("--checkpoint", help="a checkpoint of train_net")
    parser.add_argument("--large", action="store_true", help="also files over 4 GB (10 GB on the disk)")
    args = parser.parse_args()
    print("torch {}, numpy {}, safetensors {}".format(
        torch.__version__, np.__version__, "no: SKIPPED" if safetensors is None else safetensors.__version__))
    checks = Checks(args.bin)
    with tempfile.TemporaryDirectory() as folder:
        checks.read_and_write(folder)
        if args.checkpoint:
            checks.checkpoint(args.checkpoint)
        if args.large:
            checks.large(folder)
        else:
            print("SKIPPED: files over 4 GB (--large)")
    sys.exit("{} checks failed".format(checks.failed) if checks.failed else None)


if __name__ == "__main__":
    main()
