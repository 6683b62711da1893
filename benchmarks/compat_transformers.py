"""Time transformers' Mamba forward and backward with our kernels and without, in one process.

Run ``python -m benchmarks.compat_transformers``. Logits and all gradients are compared first: no speed is shown of
numbers that differ. Repetitions with and without alternate, so that a busy machine slows both; the ratio is of the
medians. Without kernels transformers loops over time: 4 x 1,024 steps take it about half a minute on two cores, so
``--length 256`` and ``--repetitions 1`` are there for a quick look.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from seqdomains.kernels.compat import patch_transformers

# Largest difference that is allowed, relative to the largest value of each tensor.
ALLOWED = {"cpu": 1e-5, "cuda": 1e-4}
WAYS: dict[str, Callable[[], AbstractContextManager[Any]]] = {"ours": patch_transformers, "transformers": nullcontext}


def build(arguments: argparse.Namespace, device: str) -> tuple[Any, Tensor]:
    """Return a language model in training mode and its tokens."""
    import transformers

    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=256, hidden_size=arguments.width, num_hidden_layers=arguments.layers)
    model = transformers.MambaForCausalLM(config).to(device).train()
    return model, torch.randint(256, (arguments.batch, arguments.length), device=device)


def step(model: Any, tokens: Tensor) -> dict[str, Tensor]:
    """Run forward and backward; return the logits and all gradients."""
    model.zero_grad()
    out = model(tokens, labels=tokens)
    out.loss.backward()
    return {"logits": out.logits} | {name: parameter.grad for name, parameter in model.named_parameters()}


def differing(model: Any, tokens: Tensor, allowed: float) -> list[str]:
    """Name the tensors that are not equal with ours and without."""
    found = {}
    for way, context in WAYS.items():
        with context():
            found[way] = {name: values.detach().clone() for name, values in step(model, tokens).items()}
    return [
        f"{name} differs by {error:.1e} of its largest value"
        for name, exact in found["transformers"].items()
        if not (error := ((found["ours"][name] - exact).abs().max() / exact.abs().max()).item()) <= allowed
    ]


def medians(model: Any, tokens: Tensor, repetitions: int) -> dict[str, float]:
    """Return the median seconds of a step with ours and without, interleaved. The comparison before has warmed up."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    wait = torch.cuda.synchronize if tokens.is_cuda else lambda: None
    for _ in range(repetitions):
        for way, context in WAYS.items():
            with context():
                wait()
                start = time.perf_counter()
                step(model, tokens)
                wait()
                taken[way].append(time.perf_counter() - start)
    return {way: statistics.median(times) for way, times in taken.items()}


def main() -> int:
    """Print seconds of each way and their ratio, on the CPU and on a CUDA device where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--devices", nargs="+", choices=list(ALLOWED), help="default: all that are there")
    arguments = parser.parse_args()
    devices = arguments.devices or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        model, tokens = build(arguments, device)
        problems = differing(model, tokens, ALLOWED[device])
        if problems:
            print("No speed is shown:", *problems, sep="\n  ", file=sys.stderr)
            return 1
        where = f"{torch.get_num_threads()} threads" if device == "cpu" else torch.cuda.get_device_name()
        print(f"forward+backward, {arguments.layers} layers of width {arguments.width}, ", end="")
        print(f"{arguments.batch} x {arguments.length}, {where}; logits and gradients are equal")
        found = medians(model, tokens, arguments.repetitions)
        for way, seconds in found.items():
            print(f"  {way:14} {seconds * 1e3:10.1f} ms  {tokens.numel() / seconds:12,.0f} tokens/s")
        print(f"  ratio          {found['transformers'] / found['ours']:10.1f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
