"""Compile the Triton kernels for an H100 without one, and bound what their loops cost.

The launches are recorded from the ops themselves on meta tensors, so that what is compiled is what would run.
"""
# ruff: noqa: E402  (the imports below need what is checked above them)

import os
import re
import subprocess
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton has no wheel for this platform")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("kernels of the interpreter are not compiled", allow_module_level=True)

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 6):
    pytest.skip("the bounds are those of Triton 3.6 and later; older ones compile with more", allow_module_level=True)

DISASSEMBLER = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
OPS = ("selective_scan", "causal_conv1d", "rms_norm")
FORWARD = {op: import_module(f"seqdomains.kernels.{op}.triton_forward").forward for op in OPS}
BACKWARD = {op: import_module(f"seqdomains.kernels.{op}.triton_backward").backward for op in OPS}


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


def scan(dtype, N, *, optional=True, other=None, length=1000):
    """Launch the scan's forward and backward; `other` is the dtype of dt, B and C where it differs."""
    B, L, D = 2, length, 384
    rows, low = meta(B, L, D, dtype=dtype), other or dtype
    dt, BC, A, channel, h = meta(B, L, D, dtype=low), meta(B, L, N, dtype=low), meta(D, N), meta(D), meta(B, D, N)
    given = (channel, rows, channel, h) if optional else (None, None, None, None)
    _, _, states = FORWARD["selective_scan"](rows, dt, A, BC, BC, *given, optional)
    BACKWARD["selective_scan"](rows, h if optional else None, rows, dt, A, BC, BC, *given, states, optional)


def convolution(dtype, width, channels, *, optional=True, length=1000):
    x, weight = meta(2, length, channels, dtype=dtype), meta(channels, width)
    given = (meta(channels), meta(2, width - 1, channels, dtype=dtype)) if optional else (None, None)
    FORWARD["causal_conv1d"](x, weight, *given, optional)
    BACKWARD["causal_conv1d"](x, x, weight, *given, optional)


def norm(dtype, channels, *, optional=True, length=1000):
    x, weight = meta(2, length, channels, dtype=dtype), meta(channels)
    _, total, rstd = FORWARD["rms_norm"](x, weight, meta(2, length, channels) if optional else None, 1e-5)
    BACKWARD["rms_norm"](x, total if optional else None, total, weight, rstd, dtype)


@pytest.fixture
def launches(monkeypatch):
    """Record what a call would launch: (kernel, values of its arguments and options by name)."""

    def recorded(call, *args, **kwargs):
        found = []

        def run(kernel, *values, grid, warmup, **named):
            found.append((kernel, dict(zip(kernel.arg_names, values, strict=False)) | named))

        with monkeypatch.context() as patched:
            patched.setattr(JITFunction, "run", run)
            call(*args, **kwargs)
        return found

    return recorded


POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


def specialisation(kernel, values):
    """Return what Triton's just-in-time compiler makes of a launch: types, constants, multiples of 16, and options."""
    values, signature, constants, attributes = dict(values), {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = values.pop(parameter.name)
        if parameter.is_constexpr or (type(value) is int and value == 1 and not parameter.do_not_specialize):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        tensor = isinstance(value, torch.Tensor)
        signature[parameter.name] = POINTERS[value.dtype] if tensor else "fp32" if isinstance(value, float) else "i32"
        if tensor or (isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize):
            attributes[(place,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes, values


def compile_all(recorded):
    """Compile every distinct kernel among the launches; return them by name."""
    kernels = {}
    for kernel, values in recorded:
        if kernel.__name__ not in kernels:
            signature, constants, attributes, options = specialisation(kernel, values)
            source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
            compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
            kernels[kernel.__name__] = compiled
    return kernels


class Code(NamedTuple):
    """The instructions of a kernel without their predicates, and of its largest loop how many there are by name."""

    instructions: list[str]
    loop: Counter

    @property
    def spills(self):
        """Accesses to local memory, where registers go that do not fit."""
        return sum(instruction.startswith(("LDL", "STL")) for instruction in self.instructions)

    @property
    def registers(self):
        return 1 + max(int(n) for instruction in self.instructions for n in re.findall(r"\bR(\d+)\b", instruction))


def disassemble(kernel, folder):
    if not DISASSEMBLER.exists():
        pytest.skip(f"{DISASSEMBLER} is missing from this Triton wheel")
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    text = subprocess.run([DISASSEMBLER, "-c", cubin], capture_output=True, text=True, check=True).stdout
    instructions, labels, loops = [], {}, [Counter()]
    for line in text.splitlines():
        if label := re.match(r"\s*\.?(L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?);", line):
            instructions.append(instruction[1])
            target = re.match(r"BRA.*`\(\.(L_x_\d+)\)", instruction[1])
            if target and target[1] in labels:  # a branch back
                loops.append(Counter(i.split()[0].split(".")[0] for i in instructions[labels[target[1]] :]))
    return Code(instructions, max(loops, key=Counter.total))


# Per kernel: registers, accesses to local memory, instructions of the loop, and of these the shuffles. Measured with
# Triton 3.6 and 3.8: 95, 0, 493, 0; 126, 0, 731, 32; 255, 27, 1253, 80; 255, 0, 2156, 162.
SCAN_BOUNDS = {
    "chunk_ends": (128, 0, 600, 8),
    "outputs": (168, 0, 880, 40),
    "sweep_forward": (255, 60, 1500, 96),
    "sweep_backward": (255, 0, 2600, 200),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_loops_of_the_scan(dtype, launches, tmp_path):
    kernels = compile_all(launches(scan, dtype, 16))
    assert kernels.keys() == SCAN_BOUNDS.keys() | {"pass_states", "add_blocks"}
    for name, (most_registers, most_spills, most_instructions, most_shuffles) in SCAN_BOUNDS.items():
        code = disassemble(kernels[name], tmp_path)
        assert code.registers <= most_registers, name
        assert code.spills <= most_spills, (name, code.spills)
        # An exp2 per state and step is the least that any of them does: else the loop was not found.
        assert code.loop["MUFU"] >= 4 * 8, (name, code.loop)
        assert code.loop.total() <= most_instructions, (name, code.loop)
        assert code.loop["SHFL"] <= most_shuffles, (name, code.loop)


def test_loop_of_the_convolution_back(launches, tmp_path):
    kernels = compile_all(launches(convolution, torch.bfloat16, 4, 384))
    code = disassemble(kernels["convolve_back"], tmp_path)
    # Eight elements per lane: 54 instructions each with Triton 3.6 and 3.8, none of them across lanes.
    assert 0 < code.loop.total() <= 8 * 65, code.loop
    assert code.loop["SHFL"] == code.loop["BAR"] == code.spills == 0, code.loop
    assert disassemble(kernels["convolve"], tmp_path).spills == 0


def test_norm_keeps_rows_in_registers(launches, tmp_path):
    for kernel in compile_all(launches(norm, torch.bfloat16, 1536)).values():
        assert disassemble(kernel, tmp_path).spills == 0


@pytest.mark.parametrize(
    ("dtype", "N", "other"),
    [
        (torch.float32, 64, None),
        (torch.float16, 5, torch.float32),
        (torch.bfloat16, 1, torch.float16),
        (torch.bfloat16, 256, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("optional", [True, False], ids=["all", "bare"])
def test_scan_compiles(dtype, N, other, optional, launches):
    assert len(compile_all(launches(scan, dtype, N, other=other, optional=optional))) == 6


@pytest.mark.parametrize("optional", [True, False], ids=["all", "bare"])
def test_convolution_and_norm_compile(optional, launches):
    for dtype, width, channels in ((torch.float32, 2, 100), (torch.float16, 3, 384)):
        assert len(compile_all(launches(convolution, dtype, width, channels, optional=optional))) == 2
        assert len(compile_all(launches(norm, dtype, channels, optional=optional))) == 2


@pytest.mark.parametrize("op", [scan, convolution, norm])
def test_lengths_share_one_compilation(op, launches):
    """Triton compiles anew for an integer that is 1 or a multiple of 16, unless told not to."""
    arguments = {scan: (16,), convolution: (4, 100), norm: (100,)}[op]

    def specialisations(length):
        found = {}
        for kernel, values in launches(op, torch.bfloat16, *arguments, length=length):
            found.setdefault(kernel.__name__, []).append(specialisation(kernel, values))
        return found

    long = specialisations(16384)
    for length in (1, 16, 1000, 1001):
        for name, compiled in specialisations(length).items():
            assert all(each in long[name] for each in compiled), (name, length)
