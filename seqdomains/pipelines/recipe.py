"""The recipe of a training run: what a user may choose, and what each step does with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from seqdomains.backbone.sequence_parallel import LEAST_PART
from seqdomains.errors import ConfigError

Beta = Annotated[float, Field(ge=0, lt=1)]


class LengthStage(BaseModel):
    """A stage of training on shorter windows.

    Short windows come first because a mark of a few hundred tokens is a large share of them: the paper's own recipe
    (arXiv:2312.00752, section 4.3.2) doubles the length from epoch to epoch.

    Examples
    --------
    >>> LengthStage(until=0.5, window=512).window
    512
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    until: float = Field(gt=0, lt=1, description="Share of the steps at which the stage ends.")
    window: int = Field(ge=1, description="Length of its windows in tokens; divides the task's window.")


class TrainConfig(BaseModel):
    """How to train.

    Examples
    --------
    >>> TrainConfig(steps=10, batch=8).windows(4096), TrainConfig(batch_tokens=2**20).windows(4096)
    (8, 256)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(1000, ge=1, description="Optimizer steps.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of the initial weights and of the stream of windows.")
    batch: int = Field(32, ge=1, description="Windows of full length per optimizer step.")
    batch_tokens: int | None = Field(
        None, ge=1, description="Tokens per optimizer step, in place of `batch`: as many windows as they hold."
    )
    micro_batch: int | None = Field(
        None, ge=1, description="Windows on the device at once; gradients of a batch are summed. null: the whole batch."
    )
    time_chunk: int | None = Field(
        None,
        ge=1,
        description="Tokens of a window in memory at once, with the gradients of the whole window and a forward pass "
        "more. null: the whole window.",
    )
    recompute: bool = Field(
        False,
        description="Keep a fifth of the memory for the backward pass, or two where the fast kernels don't run, and "
        "compute the rest again.",
    )
    sequence_ranks: int = Field(
        1, ge=1, description="Processes of a torchrun job that share the time of each window; the rest share the batch."
    )
    length_warmup: tuple[LengthStage, ...] = Field(
        (), description="Stages of shorter windows before those of full length, with as many tokens per step."
    )
    length_cycle: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Window lengths that the steps after the warm-up take in turn; empty: the task's window."
    )
    lr: float = Field(1e-3, gt=0, description="Learning rate after the warm-up.")
    min_lr: float = Field(1e-5, ge=0, description="Learning rate at the end of the cosine.")
    backbone_lr_scale: float = Field(
        1.0, gt=0, le=1, description="Learning rate of the backbone in parts of that of the head: for fine-tuning."
    )
    warmup: float = Field(0.05, ge=0, description="Warm-up; below 1 a fraction of the steps, else a number of steps.")
    weight_decay: float = Field(0.1, ge=0, description="AdamW's decay of matrices; vectors and A_log have none.")
    betas: tuple[Beta, Beta] = Field((0.9, 0.95), description="AdamW's decay of the two moments, per step.")
    clip: float = Field(1.0, ge=0, description="Longest gradient (L2 norm) that a step follows; 0 follows any.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="bf16 autocast or fp32; auto is bf16 on a GPU that has it, fp32 elsewhere."
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves torch's choice.")
    checkpoint_every: int = Field(100, ge=1, description="Steps between checkpoints.")
    keep: int = Field(2, ge=1, description="Checkpoints that stay; with 1 a damaged one has none before it.")
    log_every: int = Field(10, ge=1, description="Steps between lines of metrics.jsonl.")

    def windows(self, window: int) -> int:
        """Return how many windows of full length an optimizer step reads.

        Raises
        ------
        ConfigError
            `batch_tokens` hold none.
        """
        if self.batch_tokens is None:
            return self.batch
        if self.batch_tokens < window:
            raise ConfigError(f"train.batch_tokens: {self.batch_tokens} hold no window of {window}")
        return self.batch_tokens // window

    def windows_at_once(self, window: int) -> int:
        """Return how many windows of full length are on the device at once."""
        return min(self.micro_batch or self.windows(window), self.windows(window))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.batch_tokens is None and self.micro_batch is not None and self.micro_batch > self.batch:
            raise ValueError(f"micro_batch {self.micro_batch} is above batch {self.batch}")
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr:g} is above lr {self.lr:g}")
        untils = [stage.until for stage in self.length_warmup]
        if untils != sorted(set(untils)):
            raise ValueError(f"length_warmup: the stages end at {untils}, which must rise")
        return self


@dataclass(frozen=True)
class StepPlan:
    """What one optimizer step reads.

    Parameters
    ----------
    first : int
        Index of its first sample in the stream.
    windows : int
        Number of windows.
    at_once : int
        Windows on the device at once.
    window : int
        Their length in tokens.
    """

    first: int
    windows: int
    at_once: int
    window: int

    def parts(self) -> Iterator[tuple[int, int]]:
        """Yield first sample and number of windows of each part that is on the device at once."""
        for offset in range(0, self.windows, self.at_once):
            yield self.first + offset, min(self.at_once, self.windows - offset)


def plan_steps(config: TrainConfig, window: int, *, places: int = 1) -> list[StepPlan]:
    """Return what each step reads, for a task whose full length is `window`.

    A stage with windows a k-th as long has k times as many of them, so that a step costs the same throughout. Of these
    as many are on the device at once as have the tokens of the longest part of a full window that is.

    Parameters
    ----------
    config : TrainConfig
        Reads steps, batch, batch_tokens, micro_batch, time_chunk, length_warmup and length_cycle.
    window : int
        Full length in tokens.
    places : int
        Among how many ranks, or groups of ranks that share windows, a batch is shared out.

    Raises
    ------
    ConfigError
        A shorter window does not divide the full length, or a step has no window.

    Examples
    --------
    >>> config = TrainConfig(steps=4, batch=2, length_warmup=({"until": 0.5, "window": 8},))
    >>> [(plan.first, plan.windows, plan.window) for plan in plan_steps(config, 16)]
    [(0, 4, 8), (4, 4, 8), (8, 2, 16), (10, 2, 16)]
    """
    shorter = [("length_warmup", stage.window) for stage in config.length_warmup]
    shorter += [("length_cycle", length) for length in config.length_cycle]
    problems = [
        f"train.{key}: {length} does not divide data.window {window}" for key, length in shorter if window % length
    ]
    least = LEAST_PART * config.sequence_ranks
    problems += [
        f"train.sequence_ranks: {length} tokens are too few for {config.sequence_ranks} ranks, expected {least} or more"
        for length in sorted(
            {min(length, config.time_chunk or length) for length in (window, *(one for _, one in shorter))}
        )
        if config.sequence_ranks > 1 and length < least
    ]
    if problems:
        raise ConfigError(problems)
    cycle = config.length_cycle or (window,)
    plans: list[StepPlan] = []
    first, batch = 0, config.windows(window)
    chunk = config.time_chunk or window
    tokens = min(config.windows_at_once(window), -(-batch // places)) * min(window, chunk)
    for step in range(config.steps):
        usual = cycle[step % len(cycle)]
        length = next((stage.window for stage in config.length_warmup if step < stage.until * config.steps), usual)
        scale = window // length
        plans.append(StepPlan(first, batch * scale, max(1, tokens // min(length, chunk)), length))
        first += batch * scale
    return plans


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of one step: linear warm-up from 0, then half a cosine down to `min_lr`.

    Parameters
    ----------
    step : int
        Steps done before this one, from 0.
    config : TrainConfig
        Reads steps, warmup, lr and min_lr.

    Examples
    --------
    >>> config = TrainConfig(steps=101, warmup=1, lr=1.0, min_lr=0.0)
    >>> [round(learning_rate(step, config), 6) for step in (0, 1, 51, 100)]
    [1.0, 1.0, 0.5, 0.000247]
    """
    warmup = round(config.warmup * config.steps) if config.warmup < 1 else round(config.warmup)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, config.steps - warmup)
    return config.min_lr + (config.lr - config.min_lr) * (1 + math.cos(math.pi * done)) / 2
