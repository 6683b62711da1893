"""Train a model on a task's windows; a killed run goes on to the very weights that it would have had."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from seqdomains.backbone.heads import Artefact
from seqdomains.errors import ConfigError, InputError
from seqdomains.pipelines.batch_tensors import BatchTensors, as_tensors
from seqdomains.pipelines.borrowed import borrowed, deterministic, seeded, thread_count
from seqdomains.pipelines.checkpoint import load_latest, save_checkpoint
from seqdomains.pipelines.data_digest import data_digest
from seqdomains.pipelines.environment import decisive_changes, session_facts
from seqdomains.pipelines.interrupts import StoppedError, StopRequest, stop_on_signals
from seqdomains.pipelines.memory import out_of_memory, uses_bf16
from seqdomains.pipelines.metrics import Meter, MetricsLog
from seqdomains.pipelines.objectives import CLASSIFICATION, Objective
from seqdomains.pipelines.optimizer import build_optimizer
from seqdomains.pipelines.prefetch import prefetched
from seqdomains.pipelines.progress import duration, progress_display
from seqdomains.pipelines.ranks import ALONE, Ranks
from seqdomains.pipelines.recipe import StepPlan, TrainConfig, learning_rate, plan_steps
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.training_state import capture, restore
from seqdomains.task import WindowTask

_log = logging.getLogger(__name__)

_Part = tuple[int, BatchTensors]


class NonFiniteError(InputError):
    """The loss or a gradient became NaN or infinite; the weights are those before the step."""


@dataclass(frozen=True)
class TrainOutcome:
    """What `train` did.

    Parameters
    ----------
    step : int
        Steps that the model has behind it.
    resumed_from : int or None
        Step of the checkpoint that this call began with; None for a fresh start.
    already_complete : bool
        Whether the run was finished before this call, which then only loaded the weights.
    seconds : float
        Training time of all sessions together, s.
    """

    step: int
    resumed_from: int | None
    already_complete: bool
    seconds: float


def train(
    model: Artefact,
    task: WindowTask,
    config: TrainConfig,
    run: RunFolder,
    *,
    objective: Objective = CLASSIFICATION,
    device: torch.device | str = "cpu",
    ranks: Ranks = ALONE,
    progress: bool = True,
) -> TrainOutcome:
    """Train `model` in place and write the artefact; go on from the run folder's last checkpoint if there is one.

    Samples are a function of seed and index, the random states are part of a checkpoint and the algorithms are
    deterministic, so that a run which was killed and repeated ends with the same bytes on the same machine and
    number of threads.

    Parameters
    ----------
    model : Artefact
        Called by `objective`, with ``time_chunk=`` and ``recompute=`` too where `config` has them and ``shard=`` where
        ranks share windows; build it under `seeded` so that a repeated command begins alike.
    task : WindowTask
        The data.
    config : TrainConfig
        How to train.
    run : RunFolder
        A folder that `RunFolder.prepare` made.
    objective : Objective
        What is made small: `CLASSIFICATION`, or `NextToken` or `MaskedTokens` of a `PretrainingTask`.
    device : torch.device or str
        Where to train; the model is back where it was afterwards.
    ranks : Ranks
        This process's place among those that train together; each makes this call, and the first one writes.
    progress : bool
        Whether to tell the user how far it is.

    Returns
    -------
    TrainOutcome
        Steps, seconds, and whether there was anything to do.

    Raises
    ------
    StoppedError
        SIGTERM or Ctrl-C came; the step was finished and a checkpoint saved.
    NonFiniteError
        The loss or a gradient is not finite; names the step and the samples.
    ConfigError
        Another process works in the folder, or the batch does not fit into the memory.
    InputError
        The data differs from that of the run, a batch has nothing that counts, every checkpoint is damaged, or the
        folder cannot be written.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from pathlib import Path
    >>> from seqdomains.backbone import MambaConfig, SequenceClassifier
    >>> from seqdomains.task import Batch
    >>> class Coins:
    ...     classes, vocab_size, window, simulated = ("tails", "heads"), 16, 4, True
    ...     def signature(self):
    ...         return {"domain": "coins"}
    ...     def training_batch(self, seed, first, count, *, window=None):
    ...         targets = np.arange(first, first + count) % 2
    ...         return Batch(np.repeat(targets[:, None], 4, axis=1), targets, np.full(count, 4))
    >>> config = TrainConfig(steps=2, batch=4)
    >>> with seeded(config.seed):
    ...     model = SequenceClassifier(MambaConfig(d_model=8, n_layer=1), classes=Coins.classes)
    >>> run = RunFolder.prepare(Path(tempfile.mkdtemp()) / "run", {"train": config.model_dump(mode="json")})
    >>> train(model, Coins(), config, run, progress=False).step
    2
    >>> train(model, Coins(), config, run, progress=False).already_complete
    True
    """
    device = torch.device(device)
    with (
        run.lock() if ranks.first else nullcontext(),
        thread_count(config.threads),
        seeded(config.seed, device=device),
        deterministic(),
        stop_on_signals(patient=ranks.size > 1) as stop,
        borrowed(model, device=device, training=True),
    ):
        if run.complete:
            model.load_state_dict(type(model).from_pretrained(run.artefact).state_dict())
            _log.info("the run in %s is complete; nothing to train", run.path)
            return TrainOutcome(config.steps, resumed_from=None, already_complete=True, seconds=0.0)
        session = _begin(model, task, config, run, objective, device, ranks)
        try:
            with ranks.watched():
                _steps(session, task, config, run, stop, progress=progress and ranks.first)
        except torch.OutOfMemoryError as error:
            raise ConfigError(out_of_memory(model, config, window=task.window, device=device)) from error
        try:
            if ranks.first:
                model.save_pretrained(run.artefact, signature=task.signature())
            ranks.wait()
        except OSError as error:
            raise InputError(f"cannot write {run.artefact}: {error.strerror or error}") from error
        if stop.signum is not None:
            raise StoppedError(stop.signum, f"stopped after the last step; {run.artefact} is written")
        return TrainOutcome(config.steps, session.resumed_from, already_complete=False, seconds=session.meter.seconds)


@dataclass
class _Session:
    """What the steps change and a checkpoint holds."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.AdamW
    meter: Meter
    device: torch.device
    stream: str
    ranks: Ranks
    start: int
    resumed_from: int | None

    def save(self, run: RunFolder, step: int, *, keep: int) -> None:
        """Write a checkpoint; all ranks have the same weights and moments, and the first one writes them."""
        if not self.ranks.first:
            return
        tensors = capture(self.model, self.optimizer, device=self.device)
        state = {"stream": self.stream, "meter": self.meter.state()}
        save_checkpoint(run.checkpoints, step, tensors, state, keep=keep)


def _begin(
    model: nn.Module,
    task: WindowTask,
    config: TrainConfig,
    run: RunFolder,
    objective: Objective,
    device: torch.device,
    ranks: Ranks,
) -> _Session:
    """Set the run up from its last checkpoint, or from the beginning, and record this session's environment."""
    optimizer = build_optimizer(
        model,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        backbone_lr_scale=config.backbone_lr_scale,
    )
    stream = data_digest(task, config)
    checkpoint = load_latest(run.checkpoints)
    if checkpoint is None:
        session = _Session(model, objective, optimizer, Meter(), device, stream, ranks, start=0, resumed_from=None)
    else:
        if checkpoint.state.get("stream") != stream:
            raise InputError(
                f"the data gives other training windows than when the run in {run.path} began; "
                "put the data back as it was or choose another folder"
            )
        restore(checkpoint, model, optimizer, device=device)
        meter, step = Meter(**checkpoint.state["meter"]), checkpoint.step
        session = _Session(model, objective, optimizer, meter, device, stream, ranks, start=step, resumed_from=step)
        _log.info("going on from the checkpoint of step %d in %s", step, run.path)
    ranks.agree(session.start, what="a checkpoint of step")
    ranks.begin_alike(model)
    if not ranks.first:
        return session
    facts, before = {"from_step": session.start, "ranks": ranks.size, **session_facts(device)}, run.sessions()
    changes = [] if session.resumed_from is None or not before else decisive_changes(before[-1], facts)
    if before and session.resumed_from is not None and before[-1].get("ranks", 1) != ranks.size:
        changes.append(f"ranks was {before[-1].get('ranks', 1)} and is {ranks.size}")
    if changes:
        _log.warning("the last bits may differ from those of an uninterrupted run: %s", "; ".join(changes))
    run.record_session(facts)
    return session


def _steps(
    session: _Session,
    task: WindowTask,
    config: TrainConfig,
    run: RunFolder,
    stop: StopRequest,
    *,
    progress: bool,
) -> None:
    """Do the optimizer steps that are left, with metrics, checkpoints and an orderly stop."""
    start, meter, optimizer = session.start, session.meter, session.optimizer
    plans = plan_steps(config, task.window, places=session.ranks.places)
    source = _micro_batches(task, config.seed, plans[start:], session.ranks, pin=session.device.type == "cuda")
    with (
        MetricsLog(run.metrics, step=start) if session.ranks.first else nullcontext() as metrics,
        prefetched(source) as micro_batches,
        progress_display("train", total=config.steps, start=start, enabled=progress) as show,
    ):
        for step in range(start, config.steps):
            lr = learning_rate(step, config)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["scale"]
            loss, norm, tokens, stopping = _gradients(session, micro_batches, step, plans[step], config, stop)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            done = step + 1
            meter.add(loss, tokens)
            logged = done == config.steps or done % config.log_every == 0
            left = duration(meter.session_seconds / (done - start) * (config.steps - done))
            rate = meter.tokens_per_s
            show(done, f"loss {meter.loss:.4f}  lr {lr:.2e}  {rate:,.0f} tokens/s  {left} left", logged)
            if logged and metrics is not None:
                row = {"step": done, "loss": meter.loss, "lr": lr, "grad_norm": norm, "tokens_per_s": round(rate)}
                row |= {
                    "window": plans[step].window,
                    "seconds": round(meter.seconds, 3),
                    "samples": plans[step].first + plans[step].windows,
                }
                if session.device.type == "cuda":
                    row["memory_mib"] = torch.cuda.max_memory_allocated(session.device) >> 20
                metrics.append(row)
            if logged:
                meter.begin_interval()
            if stopping or done == config.steps or done % config.checkpoint_every == 0:
                if metrics is not None:
                    metrics.sync()
                session.save(run, done, keep=config.keep)
            if stopping and done < config.steps:
                # Not before it is saved: when one process leaves, torchrun ends the others.
                session.ranks.wait()
                raise StoppedError(
                    stop.signum or signal.SIGTERM,
                    f"stopped after step {done}, which is saved; repeat the command to go on",
                )


def _micro_batches(task: WindowTask, seed: int, plans: list[StepPlan], ranks: Ranks, *, pin: bool) -> Iterator[_Part]:
    """Yield index of the first sample and tensors of each part of this rank's batches, to be prefetched."""
    for plan in plans:
        for first, count in _own(plan, ranks).parts():
            yield first, as_tensors(task.training_batch(seed, first, count, window=plan.window), pin=pin)


def _own(plan: StepPlan, ranks: Ranks) -> StepPlan:
    """Return what this rank reads of a step's batch."""
    first, windows = ranks.share(plan.first, plan.windows)
    return replace(plan, first=first, windows=windows)


def _gradients(
    session: _Session,
    micro_batches: Iterator[_Part],
    step: int,
    plan: StepPlan,
    config: TrainConfig,
    stop: StopRequest,
) -> tuple[float, float, int, bool]:
    """Sum the gradients of one batch, part by part, and clip them.

    Returns mean loss, gradient norm, tokens read and whether any rank is to stop. Each part's total is divided by what
    may count in the whole batch, so the parts add up to the mean; where less has counted, all are scaled up alike.
    """
    device, ranks, objective = session.device, session.ranks, session.objective
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(config, device))
    options: dict[str, Any] = {} if config.time_chunk is None else {"time_chunk": config.time_chunk}
    options |= {} if ranks.shard is None else {"shard": ranks.shard}
    options |= {"recompute": True} if config.recompute else {}
    parts: list[tuple[int, int, Tensor]] = []
    most, counted, tokens = objective.most(plan), 0.0, 0
    for _ in _own(plan, ranks).parts():
        first, part = next(micro_batches)
        with autocast:
            loss = objective.total(session.model, part, device=device, **options) / most
        # Ranks that share a window have the same loss, and what ranks have is added.
        (loss / ranks.per_sequence).backward()  # type: ignore[no-untyped-call]
        parts.append((first, len(part.tokens), loss.detach()))
        counted += objective.count(part)
        tokens += part.real_tokens
    parameters = [parameter for group in session.optimizer.param_groups for parameter in group["params"]]
    stopping = stop.signum is not None
    if ranks.size > 1:
        loss, counted, tokens, stopping = _added(
            ranks, parameters, [one for _, _, one in parts], counted, tokens, stopping
        )
        parts = [(plan.first, plan.windows, loss)]
    if not counted:
        whole = f"samples {plan.first} to {plan.first + plan.windows - 1} of seed {config.seed}"
        raise InputError(
            f"step {step + 1}: {whole} hold nothing that counts: padding, ignored codes and codes of weight 0 alone; "
            "take a larger train.batch, or look at the data and at what it weighs"
        )
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for gradient in gradients if counted < most else ():
        gradient *= most / counted
    norm = get_total_norm(gradients)
    # one wait for the device per step: losses and norm come over together, before the weights absorb them
    *losses, norm_value = torch.stack([*(loss for _, _, loss in parts), norm]).tolist()
    for (first, count, _), loss_value in zip(parts, losses, strict=True):
        if not math.isfinite(loss_value):
            raise NonFiniteError(_non_finite(f"the loss is {loss_value}", step, first, count, config))
    if not math.isfinite(norm_value):
        names = [n for n, p in session.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
        found = f"the gradient of {', '.join(names[:3])}{' and others' if names[3:] else ''} is not finite"
        raise NonFiniteError(_non_finite(found, step, plan.first, plan.windows, config))
    if config.clip:
        clip_grads_with_norm_(parameters, config.clip, norm)
    return sum(losses) * (most / counted), norm_value, tokens, stopping


def _added(
    ranks: Ranks, parameters: list[nn.Parameter], losses: list[Tensor], counted: float, tokens: int, stopping: bool
) -> tuple[Tensor, float, int, bool]:
    """Add gradients, losses and counts of all ranks; a rank whose share of a small batch is nothing adds zeros."""
    gradients = []
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gradients.append(parameter.grad)
    loss = gradients[0].new_zeros(1)
    for one in losses:
        loss += one
    # What ranks that share a window have counted alike counts once.
    loss /= ranks.per_sequence
    ranks.add([*gradients, loss])
    counts = torch.tensor([counted, tokens, ranks.per_sequence * stopping], dtype=torch.float64) / ranks.per_sequence
    ranks.add([counts])
    # The third of three thirds must not be lost; weights have no more than float32's digits.
    return loss[0], round(counts[0].item(), 6), round(counts[1].item()), counts[2].item() > 0


def _non_finite(found: str, step: int, first: int, count: int, config: TrainConfig) -> str:
    return (
        f"step {step + 1}: {found}, in samples {first} to {first + count - 1} of seed {config.seed}; "
        "stopped before the weights took it. Look at these windows, or lower train.lr"
    )
