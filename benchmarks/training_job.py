"""Run the first steps of one training job and write its losses, to be compared between two versions of the kernels.

Run ``python -m benchmarks.training_job --out before.json`` with one version, then ``--out after.json --against
before.json`` with the other: the same weights, tokens and order, so that losses may differ by rounding alone. The job
is the paper's DNA classifier (128 x 12, arXiv:2312.00752) on random bases with a class each. Its learning rate rises as
the presets' does, to 2e-3 over a tenth of 10,000 steps: at 1e-3 from the start Adam makes a step of every rounding.

In float32, the default, losses must agree to 1e-3. In bfloat16 the forward alone rounds a loss by 2e-4 and twenty steps
part by 2e-3: ``--bfloat16`` is for its step time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from seqdomains.backbone import MambaConfig, SequenceClassifier
from seqdomains.kernels import implementation

LR, WARMUP = 2e-3, 1000
CLASSES = ("a", "b", "c", "d", "e")


def run(steps: int, batch: int, length: int, device: str, *, bfloat16: bool) -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    model = SequenceClassifier(MambaConfig(d_model=128, n_layer=12), classes=CLASSES, generator=generator).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / WARMUP))
    losses, times = [], []
    for _ in range(steps):
        labels = torch.randint(len(CLASSES), (batch,), generator=generator)
        # Each class prefers one base by half, so that there is something to learn.
        tokens = torch.randint(4, (batch, length), generator=generator)
        preferred = torch.rand(batch, length, generator=generator) < 0.125
        tokens = torch.where(preferred, labels[:, None] % 4, tokens).to(device)
        start = time.perf_counter()
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(model(tokens).float(), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        times.append(time.perf_counter() - start)
    later = times[len(times) // 2 :]
    return {
        "kernels": implementation("selective_scan", device, torch.float32),
        "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
        "shape": [batch, length],
        "precision": "bfloat16" if bfloat16 else "float32",
        "losses": losses,
        "milliseconds": statistics.median(later) * 1e3,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="where to write the losses as JSON")
    parser.add_argument("--against", type=Path, help="what another version wrote")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bfloat16", action="store_true", help="autocast to bfloat16")
    arguments = parser.parse_args()
    found = run(arguments.steps, arguments.batch, arguments.length, arguments.device, bfloat16=arguments.bfloat16)
    arguments.out.write_text(json.dumps(found) + "\n")
    print(f"{found['device']}: {found['milliseconds']:.1f} ms a step, {found['kernels']}, {found['precision']}")
    print("losses " + " ".join(f"{loss:.4f}" for loss in found["losses"]))
    if arguments.against is None:
        return 0
    other = json.loads(arguments.against.read_text())
    worst = max(abs(a - b) / abs(b) for a, b in zip(found["losses"], other["losses"], strict=True))
    print(
        f"against {other['milliseconds']:.1f} ms a step: {other['milliseconds'] / found['milliseconds']:.2f} times as "
        f"fast, losses differ by {worst:.1e} at most"
    )
    return 0 if worst <= 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
