"""Compile the Triton kernels for an H100 without one, and bound what their loops cost.

The launches are recorded from the ops themselves on meta tensors, so that what is compiled is what would run.
"""
# ruff: noqa: E402  (the imports below need what is checked above them)

import os
import re
import subprocess
from collections import Counter, defaultdict
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
from triton.experimental.gluon._runtime import GluonASTSource
from triton.runtime.jit import JITFunction

from seqdomains.kernels import triton_launch
from seqdomains.kernels.block_step import BlockMemory, BlockWeights
from seqdomains.kernels.row_product import RowWeights
from seqdomains.kernels.selective_scan import gluon_plan
from seqdomains.kernels.token_draw import Sampling, TokenDraw

if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 6):
    pytest.skip("the bounds are those of Triton 3.6 and later; older ones compile with more", allow_module_level=True)

DISASSEMBLER = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
OPS = ("selective_scan", "causal_conv1d", "rms_norm")
FORWARD = {op: import_module(f"seqdomains.kernels.{op}.triton_forward").forward for op in OPS}
BACKWARD = {op: import_module(f"seqdomains.kernels.{op}.triton_backward").backward for op in OPS}


def meta(*shape, dtype=torch.float32):
    return torch.empty(*shape, dtype=dtype, device="meta")


def scan(dtype, N, *, optional=True, other=None, length=20000):
    """Launch the scan's forward and backward; `other` is the dtype of dt, B and C where it differs."""
    B, L, D = 2, length, 384
    rows, low = meta(B, L, D, dtype=dtype), other or dtype
    dt, BC, A, channel, h = meta(B, L, D, dtype=low), meta(B, L, N, dtype=low), meta(D, N), meta(D), meta(B, D, N)
    given = (channel, rows, channel, h) if optional else (None, None, None, None)
    _, _, states = FORWARD["selective_scan"](rows, dt, A, BC, BC, *given, None, optional, not optional)
    inputs = (rows, dt, A, BC, BC, *given)
    BACKWARD["selective_scan"](rows, h if optional else None, *inputs, None, states, optional, not optional)


def complex_scan(dtype, N, *, real=(), optional=True, form="varying", packed=False):
    """Launch the scan's kernels for complex states; B and C are complex unless in `real`."""
    B, L, D = 1 if packed else 2, 20000, 384
    rows, A, h = meta(B, L, D, dtype=dtype), meta(D, N, dtype=torch.complex64), meta(2, D, N, dtype=torch.complex64)
    shape = {"varying": (B, L, N), "grouped": (B, L, 2, N), "constant": (D, N)}[form]
    projections = [meta(*shape, dtype=dtype if name in real else torch.complex64) for name in "BC"]
    given = (meta(D), rows, meta(D), h) if optional else (None, None, None, None)
    inputs = (rows, rows, A, *projections, *given, meta(3, dtype=torch.int32) if packed else None)
    _, _, states = FORWARD["selective_scan"](*inputs, optional, not optional)
    BACKWARD["selective_scan"](rows, h if optional else None, *inputs, states, optional, not optional)


def convolution(dtype, width, channels, *, optional=True, length=1000, packed=None):
    """Launch both directions, of batch rows, or in reverse of sequences packed with borders of the dtype `packed`."""
    x, weight = meta(1 if packed else 2, length, channels, dtype=dtype), meta(channels, width)
    given = (meta(channels), meta(2, width - 1, channels, dtype=dtype)) if optional else (None, None)
    borders = meta(3, dtype=packed) if packed else None
    FORWARD["causal_conv1d"](x, weight, *given, optional, packed is not None, borders)
    BACKWARD["causal_conv1d"](x, x, weight, *given, optional, packed is not None, borders)


def norm(dtype, channels, *, optional=True, length=1000):
    x, weight = meta(2, length, channels, dtype=dtype), meta(channels)
    _, total, rstd = FORWARD["rms_norm"](x, weight, meta(2, length, channels) if optional else None, 1e-5)
    BACKWARD["rms_norm"](x, total if optional else None, total, weight, rstd, dtype, optional)


@pytest.fixture
def launches(monkeypatch):
    """Record what a call would launch: (kernel, values of its arguments and options by name)."""

    def recorded(call, *args, **kwargs):
        found = []

        def run(kernel, *values, grid, warmup, **named):
            found.append((kernel, dict(zip(kernel.arg_names, values, strict=False)) | named))
            return defaultdict(lambda: lambda *_, **__: None)  # what stands for a compiled kernel

        with monkeypatch.context() as patched:
            patched.setattr(JITFunction, "run", run)
            patched.setattr(triton_launch, "_compiled", {})
            for plan in (gluon_plan.plan_forward, gluon_plan.plan_backward):
                plan.cache_clear()
            call(*args, **kwargs)
        return found

    return recorded


POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float64: "*fp64",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def specialisation(kernel, values):
    """Return what Triton's just-in-time compiler makes of a launch: types, constants, multiples of 16, and options."""
    values, signature, constants, attributes = dict(values), {}, {}, {}
    for place, parameter in enumerate(kernel.params):
        value = values.pop(parameter.name)
        if parameter.is_constexpr or (type(value) is int and value == 1 and not parameter.do_not_specialize):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        tensor = hasattr(value, "data_ptr")  # or what stands for one
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
            kind = GluonASTSource if kernel.is_gluon() else ASTSource
            source = kind(kernel, signature, constexprs=constants, attrs=attributes)
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

    def accesses(self, name):
        """Accesses to memory by their width in bits, of all instructions."""
        widths = {"U16": 16, "U8": 8, "64": 64, "128": 128}
        found = (i.split()[0].split(".")[2:] for i in self.instructions if i.split()[0].split(".")[0] == name)
        return Counter(next((widths[part] for part in parts if part in widths), 32) for parts in found)

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


# Per kernel: registers, accesses to local memory, instructions of the loop of four steps, and of these the barriers.
# Triton 3.6 gave 70, 70, 245, 166 registers and 524, 737, 1547, 1299 instructions in bfloat16, 50 to 160 fewer in
# float32; 3.8 516, 757, 1752, 1353, and 141 accesses in the forward sweep.
SCAN_BOUNDS = {
    "chunk_ends": (80, 0, 560, 0),
    "outputs": (96, 0, 790, 0),
    "sweep_forward": (255, 160, 1840, 1),
    "sweep_backward": (168, 8, 1420, 1),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_loops_of_the_scan(dtype, launches, tmp_path):
    kernels = compile_all(launches(scan, dtype, 16))
    assert kernels.keys() == SCAN_BOUNDS.keys() | {"pass_forward", "pass_backward", "add_blocks", "add_rows"}
    for name, (most_registers, most_spills, most_instructions, most_barriers) in SCAN_BOUNDS.items():
        code = disassemble(kernels[name], tmp_path)
        assert code.registers <= most_registers, name
        assert code.spills <= most_spills, (name, code.spills)
        # An exp2 per state and step is the least that any of them does: else the loop was not found.
        assert code.loop["MUFU"] >= 4 * 8, (name, code.loop)
        assert code.loop.total() <= most_instructions, (name, code.loop)
        # A channel lies in one lane, with all its states; only dB and dC leave it, once in four steps.
        assert code.loop["SHFL"] == 0, (name, code.loop)
        assert code.loop["BAR"] <= most_barriers, (name, code.loop)


# Triton 3.6 gave 94, 126, 253, 253 registers, 0, 0, 20, 2 accesses and 862, 1013, 2082, 1565 instructions in float32
# with complex B and C: 27, 32, 65, 49 per state and step, of which a lane has 32. 3.8 has 224 accesses in bfloat16.
COMPLEX_BOUNDS = {
    "complex_chunk_ends": (136, 0, 960, 16),
    "complex_outputs": (168, 0, 1140, 16),
    "complex_sweep_forward": (255, 280, 2300, 40),
    "complex_sweep_backward": (255, 40, 1750, 40),
}


@pytest.mark.parametrize(("dtype", "real"), [(torch.float32, ()), (torch.bfloat16, ("B", "C"))], ids=str)
def test_loops_of_the_scan_of_complex_states(dtype, real, launches, tmp_path):
    kernels = compile_all(launches(complex_scan, dtype, 16, real=real))
    passes = {"pass_complex_forward", "pass_complex_backward", "add_group_blocks", "add_rows"}
    assert kernels.keys() == COMPLEX_BOUNDS.keys() | passes
    for name, (most_registers, most_spills, most_instructions, most_shuffles) in COMPLEX_BOUNDS.items():
        code = disassemble(kernels[name], tmp_path)
        assert code.registers <= most_registers, (name, code.registers)
        assert code.spills <= most_spills, (name, code.spills)
        # An exp2 and a square root per state and step.
        assert code.loop["MUFU"] >= 2 * 4 * 8, (name, code.loop)
        assert code.loop.total() <= most_instructions, (name, code.loop)
        assert code.loop["SHFL"] <= most_shuffles, (name, code.loop)


@pytest.mark.parametrize(
    ("N", "options"),
    [
        (5, {"real": ("B",), "form": "grouped"}),
        (64, {"real": ("C",), "form": "constant"}),
        (1, {"optional": False, "packed": True}),
    ],
    ids=str,
)
def test_scan_of_complex_states_compiles(N, options, launches):
    kernels = compile_all(launches(complex_scan, torch.float16, N, **options))
    assert kernels.keys() >= COMPLEX_BOUNDS.keys() | {"pass_complex_forward", "pass_complex_backward"}


# Per kernel: registers, and instructions of the loop per element, of which a lane has sixteen. Measured with Triton 3.6
# and 3.8: 54 to 62 registers, 14 to 15 instructions; 122 to 155 from case to case, 27 to 34.
CONVOLUTION_BOUNDS = {"convolve": (64, 17), "convolve_back": (160, 36)}


@pytest.mark.parametrize("packed", [None, torch.int32], ids=["rows", "packed"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_loops_of_the_convolution(dtype, packed, launches, tmp_path):
    kernels = compile_all(launches(convolution, dtype, 4, 256, packed=packed))
    assert kernels.keys() == CONVOLUTION_BOUNDS.keys() | {"add_parts"}
    for name, (most_registers, most_instructions) in CONVOLUTION_BOUNDS.items():
        code = disassemble(kernels[name], tmp_path)
        assert code.registers <= most_registers, (name, code.registers)
        assert 0 < code.loop.total() <= 16 * most_instructions, (name, code.loop)
        # Each element once, four neighbouring ones per access, and nothing from lane to lane: what the backward's lanes
        # read from shared memory they had asked for themselves, two rounds before.
        load, loads, stores = {"convolve": ("LDG", 4, 4), "convolve_back": ("LDGSTS", 8, 7)}[name]
        assert code.loop[load] == loads, (name, code.loop)
        assert code.loop["STG"] in (stores, stores - 3), (name, code.loop)
        wide = 64 if dtype == torch.bfloat16 else 128
        assert code.accesses(load)[wide] >= loads, (name, code.accesses(load))
        assert code.accesses("STG")[wide] >= stores, (name, code.accesses("STG"))
        assert code.spills == 0, name
        others = {"SHFL", "STS"} | ({"BAR", "LDS"} if load == "LDG" else {"LDG"})
        assert not code.loop.keys() & others, (name, code.loop)


# Registers of rows that one warp holds, and of those that four do. Measured with Triton 3.6 and 3.8: 50 to 54 and 46
# to 62; 62 to 94 and 104 to 122.
NORM_BOUNDS = {"normalise": (64, 72), "normalise_back": (104, 128)}


@pytest.mark.parametrize("channels", [256, 1536])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_norm_keeps_rows_in_registers(dtype, channels, launches, tmp_path):
    kernels = compile_all(launches(norm, dtype, channels))
    assert kernels.keys() == NORM_BOUNDS.keys() | {"add_parts"}
    for name, bounds in NORM_BOUNDS.items():
        code = disassemble(kernels[name], tmp_path)
        assert code.spills == 0, name
        assert code.registers <= bounds[channels > 512], (name, code.registers)
        # Sixteen elements of each tensor per lane and tile, in the widest accesses that four of them make.
        low, wide = (1, 1) if dtype == torch.bfloat16 else (0, 2)
        # Forward, rows that several warps share are read ahead, in front of the loop and in it.
        ahead = name == "normalise" and channels > 512
        loads, stores = code.accesses("LDGSTS" if ahead else "LDG"), code.accesses("STG")
        back = name == "normalise_back"
        assert loads[64] == 4 * low * (1 + ahead), (name, loads)
        assert loads[128] >= 4 * (wide + back), (name, loads)
        assert stores[64] == 4 * low, (name, stores)
        assert stores[128] >= 4 * (wide - (back and not low)), (name, stores)
        if channels == 256:
            # A row stays in its warp.
            assert kernels[name].metadata.shared == code.loop["BAR"] == 0, name


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
    assert len(compile_all(launches(scan, dtype, N, other=other, optional=optional))) == 8


@pytest.mark.parametrize("optional", [True, False], ids=["all", "bare"])
def test_convolution_and_norm_compile(optional, launches):
    for dtype, width, channels, packed in ((torch.float32, 2, 100, torch.int64), (torch.float16, 3, 384, None)):
        assert len(compile_all(launches(convolution, dtype, width, channels, optional=optional, packed=packed))) == 3
        assert len(compile_all(launches(norm, dtype, channels, optional=optional))) == 3


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


def gluon_scan(dtype, N, *, batch=2, other=None, optional=True, length=5000, output=False):
    """Launch the scan's Gluon kernels as a GPU would."""
    from seqdomains.kernels.selective_scan import gluon

    B, L, D = batch, length, 384
    rows, low = meta(B, L, D, dtype=dtype), other or dtype
    dt, BC, A, channel, h = meta(B, L, D, dtype=low), meta(B, L, N, dtype=low), meta(D, N), meta(D), meta(B, D, N)
    given = (channel, rows, channel, h) if optional else (None, None, None, None)
    _, _, states = gluon.forward(rows, dt, A, BC, BC, *given, optional, not optional)
    gradients = rows, h if optional else None, rows, dt, A, BC, BC, *given, states, optional, not optional
    gluon.backward(*gradients, y=rows if output else None)


# Per kernel and N: registers, accesses to local memory, instructions of the longest loop, and of these the shuffles.
# The sweep back is told to keep to 200 and 128. Triton 3.6 gave 70, 102, 92, 253, 182 registers and 464, 660, 703,
# 1453, 2011 instructions for N = 16 in bfloat16: what a tile of 16 or 8 steps costs around a loop of four.
GLUON_BOUNDS = {
    (16, "chunk_ends"): (100, 0, 560, 0),
    (16, "outputs"): (136, 0, 760, 0),
    (16, "spread_outputs"): (180, 0, 1500, 8),
    (16, "sweep_forward"): (255, 8, 1950, 64),
    (16, "sweep_backward"): (200, 24, 2500, 64),
    (64, "chunk_ends"): (90, 0, 560, 0),
    (64, "spread_outputs"): (255, 0, 1600, 8),
    (64, "sweep_forward"): (255, 24, 2050, 96),
    (64, "sweep_backward"): (128, 24, 1700, 100),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("N", [16, 64])
@pytest.mark.parametrize("output", [False, True], ids=["", "and y"])
def test_loops_of_the_fast_scan(N, dtype, output, launches, tmp_path):
    kernels = compile_all(launches(gluon_scan, dtype, N))
    kernels |= compile_all(launches(gluon_scan, dtype, N, batch=90))
    if output:
        kernels["sweep_forward"] = compile_all(launches(gluon_scan, dtype, N, output=True))["sweep_forward"]
    own = {name: kernel for name, kernel in kernels.items() if (N, name) in GLUON_BOUNDS}
    assert len(own) == sum(states == N for states, _ in GLUON_BOUNDS)
    assert kernels.keys() - own.keys() == {"pass_forward", "pass_and_add", "add_blocks", "add_all"}
    for name, kernel in own.items():
        code = disassemble(kernel, tmp_path)
        most_registers, most_spills, most_instructions, most_shuffles = GLUON_BOUNDS[N, name]
        assert code.registers <= most_registers, (name, code.registers)
        # With y to write, 19 with Triton 3.6 and N = 16 in bfloat16, beside 1,480 instructions.
        assert code.spills <= most_spills + 16 * output, (name, code.spills)
        # An exp2 per state and step of four steps is the least that any of them does: else the loop was not found.
        assert code.loop["MUFU"] >= 16, (name, code.loop)
        assert code.loop.total() <= most_instructions, (name, code.loop.total())
        assert code.loop["SHFL"] <= most_shuffles, (name, code.loop)
        # bfloat16 sums over channels run on the tensor cores.
        if name.startswith("sweep") and dtype == torch.bfloat16:
            assert code.loop["HMMA"] >= 16, (name, code.loop)


@pytest.mark.parametrize(("dtype", "other"), [(torch.float16, torch.float32), (torch.float32, torch.bfloat16)], ids=str)
@pytest.mark.parametrize("optional", [True, False], ids=["all", "bare"])
def test_fast_scan_compiles(dtype, other, optional, launches):
    assert len(compile_all(launches(gluon_scan, dtype, 16, other=other, optional=optional))) >= 6


def gluon_parts(dtype, N, *, length=5000, batch=2):
    """Launch the scan's Gluon kernels as for parts of a scan: what enters them is told on the way."""
    from seqdomains.kernels.selective_scan import gluon

    B, L, D = batch, length, 384
    rows, BC, A, channel, h = meta(B, L, D, dtype=dtype), meta(B, L, N, dtype=dtype), meta(D, N), meta(D), meta(B, D, N)
    inputs = rows, rows, A, BC, BC, channel, rows, channel
    asked = []

    def enter(*found):
        asked.append([tuple(one.shape) for one in found])
        return h

    _, _, states = gluon.forward(*inputs, None, True, False, enter=enter)
    gluon.backward(rows, None, *inputs, h, states, True, False, y=rows, enter=enter)
    assert asked == [[(B, D, N), (B, D)], [(B, D, N)]]
    return states


@pytest.mark.parametrize("N", [16, 64])
def test_parts_launch_each_sweep_once(N, launches):
    """In one slab, however little scratch memory there shall be, and with no second scan of the forward."""
    recorded = launches(gluon_parts, torch.bfloat16, N, length=200_000)
    last = {16: "outputs", 64: "spread_outputs"}[N]
    assert [kernel.__name__ for kernel, _ in recorded] == [
        "chunk_ends", "pass_through", "pass_forward", last,
        "sweep_forward", "pass_through", "pass_and_add", "sweep_backward", "add_all",
    ]  # fmt: skip
    assert "pass_through" in compile_all(recorded)
    ends, forward = recorded[0][1], recorded[2][1]
    assert ends["chunks"] - 1 == -(-200_000 // ends["chunk"])
    assert forward["known"] == ends["chunks"] - 2


def test_parts_of_one_chunk(launches):
    recorded = launches(gluon_parts, torch.bfloat16, 16, length=20)
    assert [kernel.__name__ for kernel, _ in recorded][:3] == ["chunk_ends", "pass_through", "outputs"]


def test_a_row_of_two_to_the_31_elements_goes_in_chunks(launches):
    """The single pass counts the elements of a row in 32 bits."""
    from seqdomains.kernels.selective_scan import gluon

    def forward(length):
        u, BC, A = meta(1, length, 8192, dtype=torch.bfloat16), meta(1, length, 16), meta(8192, 16)
        gluon.forward(u, u, A, BC, BC, None, None, None, None, True, False)

    assert {kernel.__name__ for kernel, _ in launches(forward, (1 << 18) - 1)} == {"spread_outputs"}
    assert {kernel.__name__ for kernel, _ in launches(forward, 1 << 18)} == {"chunk_ends", "pass_forward", "outputs"}


def changed_in_place(kernel):
    """Yield (argument, whether a barrier stands between the last read of its memory and the first write to it).

    Of arguments that are read and written, in the order of the code: good for kernels whose writes are in no loop.
    """
    root, reads, writes, barriers = {}, {}, {}, []
    for place, line in enumerate(kernel.asm["ttgir"].splitlines()):
        if "barrier" in line:
            barriers.append(place)
        if found := re.search(r"tt\.(load|store) (%\w+)", line):
            argument = root.get(found[2], found[2])
            if found[1] == "load":
                reads[argument] = place
            else:
                writes.setdefault(argument, place)
        elif found := re.match(r"\s*(%\w+) = (?:tt|ttg|arith)\.\w+ (%\w+).*!tt\.ptr", line):
            root[found[1]] = root.get(found[2], found[2])
    for argument in reads.keys() & writes.keys():
        yield argument, any(reads[argument] < barrier < writes[argument] for barrier in barriers)


@pytest.mark.parametrize(("paired", "selective"), [(False, True), (True, True), (False, False), (True, False)])
@pytest.mark.parametrize("width", [64, 256])
def test_a_blocks_step_keeps_to_registers_and_reads_before_it_writes(width, paired, selective, launches, tmp_path):
    """A small tile is held by several warps: one that is late must not read what another one has written."""
    d, D, N, R = width, 2 * width, 16, width // 16
    dtype = torch.complex64 if paired else torch.float32
    numbers = 2 * N if paired else N
    constant = None if selective else meta(D, N, dtype=dtype)
    weights = BlockWeights(
        meta(d), 1e-5, meta(2 * D, d), None, meta(D, 4), meta(D), meta(R + 2 * numbers, D) if selective else None,
        meta(D, R) if selective else None, meta(D), meta(D, N, dtype=dtype), constant, constant, meta(D), meta(d, D),
        None,
    )  # fmt: skip
    step = import_module("seqdomains.kernels.block_step.triton_forward").bind(weights, BlockMemory.empty(weights, 2))
    kernels = compile_all(launches(step, meta(2, d), meta(2, d)))
    assert set(kernels) == {"enter", "go_on", "multiply"}
    for name, kernel in kernels.items():
        # The sine of a very large angle looks its digits up in local memory, which no usual one does.
        assert disassemble(kernel, tmp_path).spills <= (40 if paired and name == "go_on" else 0), name
    for name, memory in (("enter", "%conv_ptr"), ("go_on", "%states_ptr"), ("multiply", None)):
        assert dict(changed_in_place(kernels[name])) == ({memory: True} if memory else {}), name


@pytest.mark.parametrize("normed", [False, True])
def test_a_product_of_rows_keeps_to_registers(normed, launches, tmp_path):
    weights = RowWeights(meta(256, 64), meta(256), meta(64) if normed else None, 1e-5)
    step = import_module("seqdomains.kernels.row_product.triton_forward").bind(weights)
    (kernel,) = compile_all(launches(step, meta(2, 64), meta(2, 64))).values()
    assert disassemble(kernel, tmp_path).spills == 0
    assert not dict(changed_in_place(kernel))


@pytest.mark.parametrize("rule", [Sampling(), Sampling(temperature=0.5, top_k=40, top_p=0.9)], ids=["plain", "ranked"])
def test_a_draw_of_tokens_keeps_to_registers(rule, launches, tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "reference")
    drawing = TokenDraw(rule, rows=2, vocabulary=256, block=1024, device=torch.device("cpu"))
    step = import_module("seqdomains.kernels.token_draw.triton_forward").bind(drawing)
    (kernel,) = compile_all(launches(step)).values()
    assert disassemble(kernel, tmp_path).spills == 0
