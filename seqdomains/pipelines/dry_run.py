"""What a training run would take, before it is begun: parameters, tokens a step, memory, time."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch

from seqdomains.backbone import FrameClassifier, MambaLM, PatchReconstructor, SequenceClassifier
from seqdomains.backbone.footprint import Footprint
from seqdomains.pipelines.borrowed import borrowed, thread_count
from seqdomains.pipelines.memory import step_memory, uses_bf16, what_helps
from seqdomains.pipelines.objectives import CLASSIFICATION, Objective
from seqdomains.pipelines.progress import duration
from seqdomains.pipelines.recipe import TrainConfig, plan_steps

# Tokens that the time of a step is read from.
_TRIED = {"cpu": 1 << 13, "cuda": 1 << 18}
# A forward pass is about a third of a backward one, and time chunks cost one more.
_OF_CHUNKS = 4 / 3


@dataclass(frozen=True)
class DryRun:
    """What a run would take on this device.

    Parameters
    ----------
    parameters, classes : int
        Of the model; one of sequences without classes has 0.
    windows, window : int
        That a step reads, and their length in tokens.
    at_once : int
        Tokens on the device at once.
    bf16 : bool
        Whether it computes in bf16.
    memory : Footprint
        Estimated peak.
    room : int
        Bytes that the device has.
    seconds : float or None
        Of a step, from a short one that was run; None where not even that fitted.
    tried : int
        Tokens of that one.
    steps : int
        Of the run.
    helps : str
        Which settings save memory.
    """

    parameters: int
    classes: int
    windows: int
    window: int
    at_once: int
    bf16: bool
    memory: Footprint
    room: int
    seconds: float | None
    tried: int
    steps: int
    helps: str

    def as_text(self) -> str:
        """Return it as lines for a person."""
        memory = self.memory
        parts = f"{_gib(memory.weights)} weights and AdamW, {_gib(memory.kept)} kept for the backward pass, "
        parts += f"{_gib(memory.working)} of its own"
        lines = [
            f"parameters  {self.parameters:,}{f' (with {self.classes} classes)' if self.classes else ''}",
            f"a step      {self.windows} windows of {self.window:,}: {self.windows * self.window:,} tokens",
            f"at once     {self.at_once:,} tokens on each device, {'bf16' if self.bf16 else 'fp32'}",
            f"memory      about {_gib(memory.total)} of {_gib(self.room)} GiB: {parts}",
        ]
        if self.seconds is not None:
            lines.append(
                f"time        about {_seconds(self.seconds)} a step, {duration(self.seconds * self.steps)} for "
                f"{self.steps:,} steps (from one of {self.tried:,} tokens)"
            )
        if memory.total > self.room:
            lines.append(f"it will not fit: {self.helps}")
        return "\n".join(lines) + "\n"


def dry_run(
    model: SequenceClassifier | FrameClassifier | MambaLM | PatchReconstructor,
    config: TrainConfig,
    *,
    window: int,
    device: torch.device,
    objective: Objective = CLASSIFICATION,
    ranks: int = 1,
) -> DryRun:
    """Estimate what a run would take; a short step is run for the time.

    Parameters
    ----------
    model : SequenceClassifier, FrameClassifier, MambaLM or PatchReconstructor
    config : TrainConfig
    window : int
        Full length in tokens.
    device : torch.device
    objective : Objective
        What the run would make small.
    ranks : int
        Processes that would train together; time is that of this device's share.

    Raises
    ------
    ConfigError
        A shorter window does not divide the full one, or the device has no bf16.

    Examples
    --------
    >>> from seqdomains.backbone import MambaConfig
    >>> model = SequenceClassifier(MambaConfig(d_model=8, n_layer=1), classes=("a", "b"))
    >>> found = dry_run(model, TrainConfig(steps=5, batch=4, micro_batch=2), window=32, device=torch.device("cpu"))
    >>> found.windows, found.at_once, found.tried
    (4, 64, 64)
    """
    plans = plan_steps(config, window, places=max(1, ranks // config.sequence_ranks))
    plan = max(plans, key=lambda one: one.window)
    bf16 = uses_bf16(config, device)
    per_sequence = config.sequence_ranks
    windows, length = plan.at_once, -(-min(plan.window, config.time_chunk or plan.window) // per_sequence)
    memory = step_memory(model, model.config, config, tokens=windows * length, device=device)
    room = _room(device)
    with thread_count(config.threads), borrowed(model, device=device, training=True):
        # Half of the room is left to what else the device holds.
        most = min(_TRIED.get(device.type, 1 << 13), max(64, int(windows * length * room / (2 * memory.total))))
        seconds, tried = _time(
            model, objective, windows, length, device, most=most, bf16=bf16, recompute=config.recompute
        )
    chunks = _OF_CHUNKS if config.time_chunk is not None and config.time_chunk < plan.window else 1.0
    return DryRun(
        parameters=sum(one.numel() for one in model.parameters()),
        classes=len(model.classes) if isinstance(model, SequenceClassifier | FrameClassifier) else 0,
        windows=plan.windows,
        window=plan.window,
        at_once=windows * length,
        bf16=bf16,
        memory=memory,
        room=room,
        seconds=None if seconds is None else seconds / tried * plan.windows * plan.window / ranks * chunks,
        tried=tried,
        steps=config.steps,
        helps=what_helps(config, windows=windows, causal=model.config.causal),
    )


def _time(
    model: SequenceClassifier | FrameClassifier | MambaLM | PatchReconstructor,
    objective: Objective,
    windows: int,
    length: int,
    device: torch.device,
    *,
    most: int,
    bf16: bool,
    recompute: bool,
) -> tuple[float | None, int]:
    """Return the seconds of a step without the optimizer, and its tokens: `most`, or fewer."""
    windows = max(1, min(windows, most // min(length, most)))
    # A language model is not asked for the first one.
    tokens = model.backbone.blank(windows, max(2, min(length, most)))
    part = objective.trial(tokens)
    times = []
    try:
        for _ in range(3):  # the first one compiles or loads kernels
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = objective.total(model, part, device=device, recompute=recompute)
            # The inner stages of a model have no share in windows too short for a group.
            torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - began)
    except torch.OutOfMemoryError:
        return None, part.real_tokens
    return min(times[1:]), part.real_tokens


def _room(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _seconds(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f"{seconds:.2g} s"


def _gib(count: int) -> str:
    return f"{count / 2**30:.3g}"
