"""Time the scan's neighbours on a GPU: the causal convolution with SiLU and the residual addition with RMSNorm.

Run ``python -m benchmarks.neighbours_gpu``. The ops' GPU tests run first: no speed is shown of code whose tests fail.
Times are medians between CUDA events around one call from Python. "of copy" is the bandwidth of the bytes that an op
must move, each once, over that of a copy measured in the same process. Backward alone is autograd over a kept graph;
its bytes are those of both directions less those of the forward.

``--variants`` times the kernels alone with other tile settings instead: the GPU is kept busy while the host prepares
their launches. The line of the settings in use is marked "*", the fastest one "<"; the heading of each table names the
constants that hold them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqdomains.kernels import causal_conv1d, rms_norm

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ((8, 2048, 1536), (64, 16384, 256), (1, 1 << 20, 256), (1, 65536, 1536))
DTYPES = (torch.bfloat16, torch.float32)
WIDTH = 4
# Sequences of the packed case, of unequal lengths.
SEQUENCES = 1000


class Case(NamedTuple):
    """A call, the tensors whose gradients are taken, cotangents of its outputs, and the bytes each direction moves."""

    call: Callable[[], Sequence[Tensor]]
    leaves: list[Tensor]
    cotangents: list[Tensor]
    forward: int
    backward: int


def tests_pass() -> bool:
    """Run the GPU tests of the two ops in a process of their own."""
    tests = str(ROOT / "tests" / "kernels" / "test_neighbours_gpu.py")
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-m", "gpu", tests], cwd=ROOT).returncode == 0


# Clock cycles of the GPU, about 0.5 ms: longer than the host takes for the launches of a call.
AHEAD = 1_000_000


def milliseconds(call: Callable[[], object], repeats: int, *, ahead: bool = False) -> float:
    """Return the median time of a call after five that are not counted; without the host's share if it is `ahead`."""
    times = []
    for repeat in range(repeats + 5):
        if ahead:
            torch.cuda._sleep(AHEAD)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        if repeat >= 5:
            times.append(start.elapsed_time(end))
    return statistics.median(times)


def copy_bandwidth(repeats: int) -> float:
    """Return the bytes per second that a copy of 2 GiB reads and writes."""
    source = torch.randint(256, (1 << 31,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (milliseconds(lambda: target.copy_(source), repeats) * 1e-3)


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype).requires_grad_()


def conv_case(B: int, L: int, D: int, dtype: torch.dtype, *, reverse: bool = False, packed: bool = False) -> Case:
    """Return a case that reads x and writes y; then it reads x and dy and writes dx."""
    x, weight, bias = leaf(B, L, D, dtype=dtype), leaf(D, WIDTH), leaf(D)
    borders = None
    if packed:
        inner = torch.randperm(L - 1, device="cuda")[: SEQUENCES - 1] + 1
        borders = torch.cat([inner.new_tensor([0]), inner.sort().values, inner.new_tensor([L])]).int()

    def call() -> tuple[Tensor]:
        return (causal_conv1d(x, weight, bias, activation="silu", reverse=reverse, cu_seqlens=borders),)

    size = x.numel() * x.element_size()
    return Case(call, [x, weight, bias], [torch.randn_like(x)], 2 * size, 3 * size)


def norm_case(B: int, L: int, D: int, dtype: torch.dtype) -> Case:
    """Return a case from x and residual to y and their sum; then from dy, that sum and its gradient to both gradients.

    If x is float32 the two gradients are one tensor.
    """
    x, weight, residual = leaf(B, L, D, dtype=dtype), leaf(D), leaf(B, L, D)
    low, wide = x.numel() * x.element_size(), 4 * x.numel()

    def call() -> tuple[Tensor, Tensor]:
        return rms_norm(x, weight, residual=residual, return_residual=True)

    gradients = wide if dtype == torch.float32 else low + wide
    cotangents = [torch.randn_like(x), torch.randn_like(residual)]
    return Case(call, [x, weight, residual], cotangents, 2 * (low + wide), low + 2 * wide + gradients)


def times_of(case: Case, repeats: int) -> tuple[float, float, float]:
    """Return the times of the forward without gradients, of forward and backward, and of the backward alone."""

    def forward() -> None:
        with torch.no_grad():
            case.call()

    def both() -> None:
        torch.autograd.grad(case.call(), case.leaves, case.cotangents)

    outputs = case.call()

    def backward() -> None:
        torch.autograd.grad(outputs, case.leaves, case.cotangents, retain_graph=True)

    return milliseconds(forward, repeats), milliseconds(both, repeats), milliseconds(backward, repeats)


def microseconds_of_python(case: Case) -> tuple[float, float]:
    """Return what a call costs the host, forward and both directions, where the GPU has nearly nothing to do."""

    def forward() -> None:
        with torch.no_grad():
            case.call()

    def both() -> None:
        torch.autograd.grad(case.call(), case.leaves, case.cotangents)

    found = []
    for call in (forward, both):
        for _ in range(20):
            call()
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(200):
            call()
        found.append((time.perf_counter() - start) / 200 * 1e6)
        torch.cuda.synchronize()
    return found[0], found[1]


def show_ops(repeats: int, bandwidth: float) -> None:
    print("op                        B       L     D  dtype     fwd ms  of copy  fwd+bwd ms  of copy   bwd ms  of copy")
    cases: list[tuple[str, Callable[..., Case], dict[str, bool], Sequence[tuple[int, int, int]]]] = [
        ("causal_conv1d", conv_case, {}, SHAPES),
        ("causal_conv1d reverse", conv_case, {"reverse": True}, SHAPES[1:2]),
        (f"causal_conv1d {SEQUENCES} packed", conv_case, {"packed": True}, SHAPES[2:]),
        ("rms_norm", norm_case, {}, SHAPES),
    ]
    for name, build, options, shapes in cases:
        for B, L, D in shapes:
            for dtype in DTYPES:
                case = build(B, L, D, dtype, **options)
                needs = (case.forward, case.forward + case.backward, case.backward)
                row = f"{name:<26}{B:3}{L:8}{D:6}  {str(dtype)[6:]:<9}"
                for width, ms, need in zip((7, 12, 9), times_of(case, repeats), needs, strict=True):
                    row += f"{ms:{width}.3f}{need / (ms * 1e-3) / bandwidth:9.1%}"
                print(row, flush=True)
                del case
                torch.cuda.empty_cache()
    for name, build in (("causal_conv1d", conv_case), ("rms_norm", norm_case)):
        forward, both = microseconds_of_python(build(1, 64, 256, torch.bfloat16))
        print(f"{name}: a call takes the host {forward:.0f} us, with its backward {both:.0f} us")


class Table(NamedTuple):
    """Settings of one kernel: their names, the call, its bytes, and the constants to set as (module, name, value)."""

    heading: str
    call: Callable[[], object]
    bytes: int
    settings: list[list[tuple[Any, str, Any]]]


def conv_settings(module: Any) -> list[list[tuple[Any, str, Any]]]:
    from seqdomains.kernels.causal_conv1d import triton_walk

    tried = [
        ((4, 4, 128), (32, 64, 128, 256, 512), (1, 3)),
        ((4, 4, 128), (128, 256), (2, 4)),
        ((1, 4, 128), (64, 128, 256), (1, 3)),
        ((2, 4, 128), (128, 256), (1, 3)),
        ((8, 4, 128), (128, 256), (1, 3)),
        ((4, 8, 256), (64, 128), (1, 3)),
        ((4, 2, 64), (64, 128, 256), (1, 3)),
    ]
    return [
        # Equal least and most steps: the table's chunks have just as many, whatever the shape.
        [
            (module, "TILE", triton_walk.Tile(*tile)),
            (module, "STEPS", steps),
            *([(module, "STAGES", stages)] if hasattr(module, "STAGES") else []),
            (triton_walk, "FEWEST_STEPS", steps),
        ]
        for tile, most, ahead in tried
        for steps in most
        for stages in (ahead if hasattr(module, "STAGES") else (0,))
    ]


def norm_settings(module: Any, warps: Sequence[int]) -> list[list[tuple[Any, str, Any]]]:
    from seqdomains.kernels.rms_norm.triton_forward import Tile

    settings = [[(module, "TILE", Tile(per_lane, each))] for per_lane in (8, 16, 32) for each in warps]
    if not hasattr(module, "STAGES"):
        return settings
    return [[*setting, (module, "STAGES", stages)] for setting in settings for stages in (1, 2)]


def tables(B: int, L: int, D: int, dtype: torch.dtype) -> Iterator[Table]:
    """Yield the settings to try for each kernel; the tensors of one op are freed before the next."""
    from seqdomains.kernels import triton_parts
    from seqdomains.kernels.causal_conv1d import triton_backward as conv_back
    from seqdomains.kernels.causal_conv1d import triton_forward as conv_forth
    from seqdomains.kernels.rms_norm import triton_backward as norm_back
    from seqdomains.kernels.rms_norm import triton_forward as norm_forth

    x, dy = (torch.randn(B, L, D, device="cuda").to(dtype) for _ in range(2))
    weight, bias = torch.randn(D, WIDTH, device="cuda"), torch.randn(D, device="cuda")
    low, wide = x.numel() * x.element_size(), 4 * x.numel()
    yield Table(
        "causal_conv1d forward: TILE (warps, channels per lane, channels), STEPS in its triton_forward.py",
        lambda: conv_forth.forward(x, weight, bias, None, True),
        2 * low,
        conv_settings(conv_forth),
    )
    yield Table(
        "causal_conv1d backward: TILE, STEPS, STAGES in its triton_backward.py",
        lambda: conv_back.backward(dy, x, weight, bias, None, True),
        3 * low,
        conv_settings(conv_back),
    )
    parts, dweight = torch.randn(2048, WIDTH + 1, D, device="cuda"), torch.empty_like(weight)
    yield Table(
        f"adding 2,048 parts of {WIDTH + 1} x {D}: PARTS and COLUMNS in triton_parts.py",
        lambda: triton_parts.launch_add_parts(parts, dweight, bias),
        parts.numel() * 4,
        [
            [(triton_parts, "PARTS", rows), (triton_parts, "COLUMNS", columns)]
            for rows, columns in ((256, 8), (512, 8), (128, 8), (128, 16), (256, 16), (64, 32))
        ],
    )
    residual, scale = torch.randn(B, L, D, device="cuda"), torch.randn(D, device="cuda")
    yield Table(
        "rms_norm forward: TILE (elements per lane, warps per multiprocessor), STAGES in rms_norm/triton_forward.py",
        lambda: norm_forth.forward(x, scale, residual, 1e-5),
        2 * (low + wide),
        norm_settings(norm_forth, (16, 32, 64, 256, 1024)),
    )
    _, total, rstd = norm_forth.forward(x, scale, residual, 1e-5)
    yield Table(
        "rms_norm backward: TILE in rms_norm/triton_backward.py",
        lambda: norm_back.backward(dy, residual, total, scale, rstd, dtype, True),
        low + 3 * wide + (0 if dtype == torch.float32 else low),
        norm_settings(norm_back, (8, 12, 16, 20, 24, 32, 64)),
    )


def show_variants(repeats: int, bandwidth: float) -> None:
    from seqdomains.kernels.causal_conv1d import triton_walk

    for B, L, D, dtype in (
        (64, 16384, 256, torch.bfloat16),
        (64, 16384, 256, torch.float32),
        (1, 65536, 1536, torch.bfloat16),
        (8, 2048, 1536, torch.bfloat16),
    ):
        for table in tables(B, L, D, dtype):
            print(f"\n{B} x {L} x {D} {str(dtype)[6:]}, {table.heading}")
            used = [getattr(module, name) for module, name, _ in table.settings[0]]
            found = []
            for setting in table.settings:
                values = [value for _, _, value in setting]
                before = [getattr(module, name) for module, name, _ in setting]
                for module, name, value in setting:
                    setattr(module, name, value)
                try:
                    found.append((values, milliseconds(table.call, repeats, ahead=True)))
                finally:
                    for (module, name, _), value in zip(setting, before, strict=True):
                        setattr(module, name, value)
            # Fewest steps are not part of a choice: they bound the steps from below for small inputs.
            shown = [values[:3] for values, _ in found]
            best = min(ms for _, ms in found)
            for values, (_, ms) in zip(shown, found, strict=True):
                text = ", ".join(str(tuple(value) if isinstance(value, tuple) else value) for value in values)
                marks = ("*" if values == used[:3] else " ") + ("<" if ms == best else " ")
                print(f"  {marks} {text:<24}{ms:9.4f} ms{table.bytes / (ms * 1e-3) / bandwidth:9.1%}", flush=True)
        torch.cuda.empty_cache()
    print(
        f"\nIn use, chunks of the convolution have {triton_walk.FEWEST_STEPS} to STEPS steps, as many as leave "
        f"{triton_walk.CHUNKS} chunks: FEWEST_STEPS and CHUNKS in causal_conv1d/triton_walk.py"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=20, help="calls per median")
    parser.add_argument("--no-tests", action="store_true", help="do not run the GPU tests first")
    parser.add_argument("--variants", action="store_true", help="time other tile settings of the kernels instead")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: this benchmark needs one", file=sys.stderr)
        return 1
    if not arguments.no_tests and not tests_pass():
        print("the GPU tests of the two ops fail: no speed is shown", file=sys.stderr)
        return 1
    torch.manual_seed(0)
    bandwidth = copy_bandwidth(arguments.repeats)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, a copy moves {bandwidth / 1e12:.2f} TB/s")
    (show_variants if arguments.variants else show_ops)(arguments.repeats, bandwidth)
    return 0


if __name__ == "__main__":
    sys.exit(main())
