"""Time the selective scan on a GPU beside the CUDA scan of mamba_ssm, where that can be imported.

Run ``python -m benchmarks.scan``. The op's GPU tests run first: no speed is shown of code whose tests fail. Times are
medians between CUDA events around calls from Python that follow each other; ours and the peer's are taken in turns in
one process, and "x" is the peer's time over ours. "copy" is the bandwidth that the op's inputs and outputs would need,
each moved once, over that of a copy on the same card. "exp" is the time that N exponentials per batch row, channel and
step take at 16 a clock and multiprocessor, over ours. "extra" is peak memory above the inputs in forward and backward,
"saved" what is kept between them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from seqdomains.kernels import selective_scan, selective_scan_step
from seqdomains.kernels.dispatch import VARIABLE

ROOT = Path(__file__).resolve().parent.parent
# B, D, L, N and whether portable kernels are timed too
SHAPES = (
    (8, 1536, 2048, 16, True),
    (64, 256, 1024, 16, False),
    (1, 1536, 65536, 16, False),
    (16, 256, 65536, 16, False),
    (1, 256, 1 << 20, 16, True),
    (1, 512, 1 << 20, 16, False),
    (1, 128, 1 << 20, 16, False),
    (1, 1536, 65536, 64, False),
)
TESTS = ("test_triton_gpu.py", "test_scan_gpu.py")
Call = Callable[[], object]


def tests_pass() -> bool:
    """Run the GPU tests of the kernels: in several processes where pytest-xdist is there, the large ones in one."""
    tests = [str(ROOT / "tests" / "kernels" / name) for name in TESTS]
    several = ["-n", str(min(12, os.cpu_count() or 1))] if find_spec("xdist") else []
    for chosen, processes in (("gpu and not large", several), ("gpu and large", [])):
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", chosen, *processes, *tests]
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            return False
    return True


@contextmanager
def kernels(name: str) -> Iterator[None]:
    """Choose the implementation within a block."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before


def milliseconds(calls: list[Call], rounds: int) -> list[float]:
    """Return each call's median time over rounds in which the calls take turns."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    repeats = []
    for call in calls:
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        repeats.append(max(1, min(100, int(50 / max(start.elapsed_time(end), 1e-3)))))
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, repeat, own in zip(calls, repeats, times, strict=True):
            start.record()
            for _ in range(repeat):
                call()
            end.record()
            torch.cuda.synchronize()
            own.append(start.elapsed_time(end) / repeat)
    return [statistics.median(own) for own in times]


def copy_bandwidth() -> float:
    """Return the bytes per second that a copy of 1 GiB reads and writes."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (milliseconds([lambda: target.copy_(source)], 7)[0] * 1e-3)


def exponential_floor(elements: int) -> float:
    """Return the milliseconds of so many exponentials at 16 a clock and multiprocessor, at the card's highest clock."""
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits"]
    found = subprocess.run(query, capture_output=True, text=True)
    clock = float(found.stdout.split()[0]) * 1e6 if found.returncode == 0 else 1.98e9
    return elements / (16 * properties.multi_processor_count * clock) * 1e3


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype).requires_grad_()


def inputs(B: int, D: int, L: int, N: int, dtype: torch.dtype, *, transposed: bool) -> list[Tensor]:
    """Return u, dt, A, B, C, D, z, bias, in the peer's layout if `transposed`."""
    wide, narrow = ((B, D, L), (B, N, L)) if transposed else ((B, L, D), (B, L, N))
    u, dt, z = (leaf(*wide, dtype=dtype) for _ in range(3))
    b, c = (leaf(*narrow, dtype=dtype) for _ in range(2))
    A = (-torch.arange(1.0, N + 1, device="cuda").repeat(D, 1)).requires_grad_()
    return [u, dt, A, b, c, leaf(D), z, (torch.randn(D, device="cuda") - 3).requires_grad_()]


def peer() -> Callable[..., Tensor] | None:
    """Return the peer's function, or None where it is not installed or built without its CUDA scan."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        small = inputs(1, 64, 64, 16, torch.bfloat16, transposed=True)
        selective_scan_fn(*small, delta_softplus=True)
    except (ImportError, RuntimeError, NameError, AttributeError, TypeError, OSError):
        return None
    return lambda *tensors: selective_scan_fn(*tensors, delta_softplus=True)


def forward_of(scan: Callable[..., Tensor], given: list[Tensor]) -> Call:
    def call() -> None:
        with torch.no_grad():
            scan(*given)

    return call


def both_of(scan: Callable[..., Tensor], given: list[Tensor]) -> Call:
    cotangent = torch.randn_like(given[0])
    return lambda: torch.autograd.grad(scan(*given), given, cotangent)


def with_kernels(name: str, call: Call) -> Call:
    def chosen() -> None:
        with kernels(name):
            call()

    return chosen


def peak(call: Call) -> float:
    """Return the memory in MiB that a call takes above what is allocated."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def saved(scan: Callable[..., Tensor], given: list[Tensor]) -> float:
    """Return the memory in MiB that stays allocated between forward and backward beside inputs and output."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    y = scan(*given)
    torch.cuda.synchronize()
    return (torch.cuda.memory_allocated() - before - y.numel() * y.element_size()) / 2**20


def row(shape: tuple[int, int, int, int, bool], dtype: torch.dtype, other: Callable[..., Tensor] | None,
        bandwidth: float, rounds: int) -> str:  # fmt: skip
    B, D, L, N, with_portable = shape
    given = inputs(B, D, L, N, dtype, transposed=False)
    calls = [forward_of(selective_scan, given), both_of(selective_scan, given)]
    if with_portable:
        calls += [with_kernels("triton", call) for call in calls[:2]]
    theirs = None if other is None else inputs(B, D, L, N, dtype, transposed=True)
    if other is not None and theirs is not None:
        calls += [forward_of(other, theirs), both_of(other, theirs)]
    times = milliseconds(calls, rounds)
    bytes_forward = sum(tensor.numel() * tensor.element_size() for tensor in (*given, given[0]))
    floor = exponential_floor(B * D * L * N)
    text = f"{B:3}{D:6}{L:9}{N:4}  {str(dtype)[6:]:<9}{times[0]:8.3f}{times[1]:9.3f}"
    text += f"{bytes_forward / (times[0] * 1e-3) / bandwidth:7.0%}{floor / times[0]:6.0%}{peak(calls[1]):8.0f}"
    text += f"{saved(selective_scan, given):7.0f}"
    if other is not None and theirs is not None:
        text += f"  |{times[-2]:8.3f}{times[-1]:9.3f}{peak(calls[-1]):8.0f}{saved(other, theirs):7.0f}"
        text += f"  |{times[-2] / times[0]:6.2f}{times[-1] / times[1]:6.2f}"
    if with_portable:
        text += f"   portable {times[2]:.3f} {times[3]:.3f}"
        if other is not None:
            text += f" x {times[-2] / times[2]:.2f} {times[-1] / times[3]:.2f}"
    return text


def kernel_times(shape: tuple[int, int, int, int, bool]) -> str:
    """Profile each kernel of a forward and backward in bfloat16."""
    from torch.profiler import ProfilerActivity, profile

    given = inputs(*shape[:4], torch.bfloat16, transposed=False)
    call = both_of(selective_scan, given)
    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        call()
        torch.cuda.synchronize()
    # Calls of the driver are events too, without time on the device.
    events = [event for event in found.key_averages() if event.device_time_total > 0]
    times = sorted(events, key=lambda event: -event.device_time_total)
    parts = (f"{event.key} {event.count} x {event.device_time_total / event.count * 1e-3:.3f}" for event in times)
    return f"kernels at {shape[:4]}, ms: " + ", ".join(parts)


def complex_row(rounds: int) -> str:
    """Time the scan with complex A beside the real one at equal N."""
    B, D, L, N = 1, 256, 1 << 18, 16
    real = inputs(B, D, L, N, torch.float32, transposed=False)
    paired = list(real)
    paired[2] = torch.complex(real[2].detach(), torch.randn(D, N, device="cuda")).requires_grad_()
    for place in (3, 4):
        paired[place] = torch.complex(torch.randn(B, L, N), torch.randn(B, L, N)).to("cuda").requires_grad_()
    calls = [
        forward_of(selective_scan, real), both_of(selective_scan, real),
        forward_of(selective_scan, paired), both_of(selective_scan, paired),
    ]  # fmt: skip
    times = milliseconds(calls, rounds)
    return (
        f"complex A, {B} x {D} x {L}, N = {N}, float32: {times[2]:.3f} and {times[3]:.3f} ms, "
        f"{times[2] / times[0]:.2f} and {times[3] / times[1]:.2f} times the real scan"
    )


def step_row(rounds: int) -> str:
    """Time the step of mamba-130m at batch 128, and the peer's where it is installed."""
    B, D, N = 128, 1536, 16
    state = torch.randn(B, D, N, device="cuda")
    u, dt, z = (torch.randn(B, D, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    b, c = (torch.randn(B, N, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    A, skip, bias = -torch.rand(D, N, device="cuda"), torch.randn(D, device="cuda"), torch.randn(D, device="cuda")
    calls: list[Call] = [lambda: selective_scan_step(state, u, dt, A, b, c, skip, z, bias)]
    try:
        from mamba_ssm.ops.triton.selective_state_update import selective_state_update

        calls.append(lambda: selective_state_update(state, u, dt, A, b, c, skip, z, bias, dt_softplus=True))
    except ImportError:
        pass
    graphs = []
    for call in calls:
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(20):
                call()
        graphs.append(graph)
    times = [time / 20 for time in milliseconds([graph.replay for graph in graphs], rounds)]
    beside = f", peer {times[1]:.4f} ms, x {times[1] / times[0]:.2f}" if len(times) > 1 else ", peer absent"
    return f"step, batch {B}, {D} channels, N = {N}, bfloat16, in a CUDA graph: {times[0]:.4f} ms{beside}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7, help="rounds per median")
    parser.add_argument("--only", type=int, nargs="*", help="rows of the table, from 0")
    parser.add_argument("--no-tests", action="store_true", help="for tuning; such figures are not to be quoted")
    parser.add_argument("--kernels", action="store_true", help="also profile each kernel in bfloat16")
    parser.add_argument("--pin", action="store_true", help="keep the process, and autograd's thread, to one CPU core")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: this benchmark needs one", file=sys.stderr)
        return 1
    if not arguments.no_tests and not tests_pass():
        print("the kernels' GPU tests fail: no speed is shown", file=sys.stderr)
        return 1
    if arguments.pin:
        # Before autograd starts its thread, which then finds the caches as Python's forward left them.
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.manual_seed(0)
    bandwidth, other = copy_bandwidth(), peer()
    import triton

    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}, a copy moves "
        f"{bandwidth / 1e12:.2f} TB/s, peer {'absent' if other is None else 'present'}, "
        f"{'one CPU core' if arguments.pin else 'any CPU core'}; ms, MiB"
    )
    print("  B     D        L   N  dtype     forward  fwd+bwd  copy   exp   extra  saved  | peer: the same    |  x")
    rows = range(len(SHAPES)) if arguments.only is None else arguments.only
    for dtype in (torch.bfloat16, torch.float32):
        for number in rows:
            print(row(SHAPES[number], dtype, other, bandwidth, arguments.rounds), flush=True)
            torch.cuda.empty_cache()
    for number in rows if arguments.kernels else ():
        print(kernel_times(SHAPES[number]), flush=True)
    if arguments.only is None:
        print(complex_row(arguments.rounds), flush=True)
        print(step_row(arguments.rounds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
