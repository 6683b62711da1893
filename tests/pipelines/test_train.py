"""Training: the same bytes however it was interrupted, and nothing bad gets into the weights."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import seqdomains
from seqdomains.backbone import MambaConfig, SequenceClassifier
from seqdomains.errors import ConfigError, InputError
from seqdomains.pipelines.borrowed import seeded
from seqdomains.pipelines.interrupts import StoppedError
from seqdomains.pipelines.metrics import read_metrics
from seqdomains.pipelines.recipe import TrainConfig, learning_rate
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.train import NonFiniteError, train

SCRIPT = Path(__file__).with_name("toy.py")


def start_process(folder: Path, *, delay: float, config: dict) -> subprocess.Popen:
    path = os.pathsep.join(filter(None, [str(Path(seqdomains.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), "--delay", str(delay), "--config", json.dumps(config)],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(process: subprocess.Popen, metrics: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while not (rows := read_metrics(metrics)) or rows[-1]["step"] < step:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "the process logs no steps"
        time.sleep(0.01)


def logged(folder: Path) -> list[tuple]:
    return [
        tuple(row[key] for key in ("step", "loss", "lr", "grad_norm")) for row in read_metrics(folder / "metrics.jsonl")
    ]


def test_sigkill_at_three_random_moments_leads_to_the_same_bytes(toy, tmp_path):
    config = {"steps": 60, "checkpoint_every": 2, "log_every": 3}
    toy.toy_train(tmp_path / "whole", toy.toy_config(**config))
    killed, moments = tmp_path / "killed", np.random.default_rng(20)
    for step in (7, 22, 41):
        process = start_process(killed, delay=0.02, config=config)
        wait_for_step(process, killed / "metrics.jsonl", step)
        time.sleep(moments.uniform(0, 0.2))
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (killed / "model").exists()
    outcome = toy.toy_train(killed, toy.toy_config(**config))
    assert outcome.resumed_from >= 41 - 2
    assert toy.weights(killed) == toy.weights(tmp_path / "whole")
    assert logged(killed) == logged(tmp_path / "whole")
    assert [row["step"] for row in read_metrics(killed / "metrics.jsonl")] == list(range(3, 61, 3))
    assert not list(killed.rglob("*.partial"))
    assert len(RunFolder(killed).sessions()) == 4


def test_sigterm_ends_the_process_with_143_and_a_checkpoint(toy, tmp_path):
    process = start_process(tmp_path / "run", delay=0.02, config={"steps": 1000, "checkpoint_every": 1000})
    wait_for_step(process, tmp_path / "run" / "metrics.jsonl", 2)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "repeat the command" in err
    assert "Traceback" not in err
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 1


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_finishes_the_step_and_the_resumed_run_has_the_same_bytes(toy, tmp_path, signum, code):
    toy.toy_train(tmp_path / "whole", toy.toy_config())
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)

    def stop_at_step_6(first: int) -> None:
        if first == 6 * 8:
            os.kill(os.getpid(), signum)

    with pytest.raises(StoppedError, match="stopped after step") as caught:
        toy.toy_train(tmp_path / "cut", toy.toy_config(steps=12), toy.ToyTask(hook=stop_at_step_6, delay=0.01))
    assert caught.value.exit_code == code
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    assert toy.toy_train(tmp_path / "cut", toy.toy_config()).resumed_from in range(3, 8)
    assert toy.weights(tmp_path / "cut") == toy.weights(tmp_path / "whole")
    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")


def test_second_signal_leaves_at_once(toy, tmp_path):
    def stop_twice(first: int) -> None:
        if first == 3 * 8:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    task = toy.ToyTask(hook=stop_twice)
    with pytest.raises(SystemExit) as caught:
        toy.toy_train(tmp_path / "run", toy.toy_config(steps=500, checkpoint_every=1000), task)
    assert caught.value.code == 130


def test_signal_in_the_last_step_still_writes_the_model(toy, tmp_path):
    signals = [signal.SIGTERM]
    task = toy.ToyTask(hook=lambda first: os.kill(os.getpid(), signals.pop()) if signals else None)
    with pytest.raises(StoppedError, match="last step"):
        toy.toy_train(tmp_path / "run", toy.toy_config(steps=1), task)
    assert RunFolder(tmp_path / "run").complete


def test_complete_run_is_not_trained_again(toy, tmp_path, caplog):
    toy.toy_train(tmp_path / "run", toy.toy_config())
    before = toy.weights(tmp_path / "run")
    run = RunFolder.prepare(tmp_path / "run", {"train": toy.toy_config().model_dump(mode="json")})
    model = toy.ToyClassifier()
    with caplog.at_level(logging.INFO):
        outcome = train(model, toy.ToyTask(), toy.toy_config(), run, progress=False)
    assert outcome.already_complete
    assert "is complete" in caplog.text
    assert toy.weights(tmp_path / "run") == before
    trained = toy.ToyClassifier.from_pretrained(run.artefact)
    assert torch.equal(model.hidden.weight, trained.hidden.weight)


def test_killed_between_last_checkpoint_and_model_writes_the_model(toy, tmp_path):
    toy.toy_train(tmp_path / "run", toy.toy_config())
    before = toy.weights(tmp_path / "run")
    (tmp_path / "run" / "model" / "model.safetensors").unlink()
    assert toy.toy_train(tmp_path / "run", toy.toy_config()).resumed_from == 12
    assert toy.weights(tmp_path / "run") == before


def test_damaged_checkpoint_is_named_and_the_one_before_used(toy, tmp_path, caplog):
    toy.toy_train(tmp_path / "whole", toy.toy_config())
    toy.toy_train(tmp_path / "run", toy.toy_config())
    (tmp_path / "run" / "model" / "model.safetensors").unlink()
    last = tmp_path / "run" / "checkpoints" / "step-00000012" / "optimizer.safetensors"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    assert toy.toy_train(tmp_path / "run", toy.toy_config()).resumed_from == 10
    assert "step-00000012: optimizer.safetensors has SHA-256" in caplog.text
    assert toy.weights(tmp_path / "run") == toy.weights(tmp_path / "whole")
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [2, 4, 6, 8, 10, 12]


def test_resume_refuses_other_data(toy, tmp_path):
    def stop(first: int) -> None:
        if first == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError):
        toy.toy_train(tmp_path / "run", toy.toy_config(steps=200), toy.ToyTask(hook=stop, delay=0.01))
    # Other windows, and the same but for one code of the thirtieth.
    for other in (toy.ToyTask(window=25), toy.ToyTask(poison=30)):
        with pytest.raises(InputError, match="other training windows"):
            toy.toy_train(tmp_path / "run", toy.toy_config(steps=200), other)


def test_accumulated_gradients_are_those_of_the_batch(toy, tmp_path):
    for name, part in (("whole", None), ("parts", 3)):
        toy.toy_train(tmp_path / name, toy.toy_config(steps=4, micro_batch=part), dropout=0.0)
    whole, parts = (toy.ToyClassifier.from_pretrained(tmp_path / name / "model") for name in ("whole", "parts"))
    for (name, expected), found in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6, msg=name)
    for expected, found in zip(logged(tmp_path / "whole"), logged(tmp_path / "parts"), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("poison", "message"),
    [
        (lambda logits: logits * float("nan"), r"step 4: the loss is nan, in samples 27 to 29 of seed 0"),
        (lambda logits: (logits * 0).abs().sqrt(), r"step 4: the gradient of .* is not finite, in samples 24 to 31"),
    ],
)
def test_non_finite_batch_is_named_before_the_weights_take_it(toy, tmp_path, poison, message):
    config = toy.toy_config(checkpoint_every=3, micro_batch=3)
    run = RunFolder.prepare(tmp_path / "run", {"train": config.model_dump(mode="json")})
    with seeded(0):
        model = toy.ToyClassifier(poison=poison)
    with pytest.raises(NonFiniteError, match=message):
        train(model, toy.ToyTask(poison=28), config, run, progress=False)
    # 3 steps were good and are in the checkpoint: nothing of the 4th has come into the weights since
    saved = load_file(run.checkpoints / "step-00000003" / "model.safetensors")
    assert all(torch.equal(saved[name], parameter) for name, parameter in model.named_parameters())
    assert not run.complete


def test_logged_loss_is_the_mean_over_windows(toy, tmp_path):
    toy.toy_train(tmp_path / "run", toy.toy_config(steps=1, micro_batch=3))
    ((_, loss, _, _),) = logged(tmp_path / "run")
    assert loss == pytest.approx(np.log(3), abs=0.3)  # nats of a model that knows nothing of three classes


def test_clip_bounds_the_gradient_that_a_step_follows(toy, tmp_path):
    """AdamW follows any gradient by about lr a step, but one far below its eps of 1e-8 hardly at all."""
    moved = {}
    for clip in (0.0, 1e-12):
        run = RunFolder.prepare(tmp_path / str(clip), {})
        model = toy.ToyClassifier()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        train(model, toy.ToyTask(), toy.toy_config(steps=1, weight_decay=0.0, warmup=0, clip=clip), run, progress=False)
        pairs = zip(before, model.parameters(), strict=True)
        moved[clip] = max((old - new).abs().max().item() for old, new in pairs)
    assert moved[0.0] == pytest.approx(1e-2, rel=0.01)
    assert moved[1e-12] < 1e-5


@pytest.mark.parametrize("steps", [1, 2])
def test_the_backbone_moves_at_its_part_of_the_rate(tmp_path, toy, monkeypatch, steps):
    """AdamW's first step moves each weight by the rate, whatever its gradient; a run that was stopped goes on alike."""
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "reference")
    config = toy.toy_config(
        steps=2, checkpoint_every=1, weight_decay=0.0, warmup=0, min_lr=1e-2, backbone_lr_scale=0.01
    )

    def built():
        with seeded(0):
            return SequenceClassifier(MambaConfig(d_model=8, n_layer=1), classes=toy.CLASSES, pooling="mean")

    def moved(model):
        pairs = zip(built().named_parameters(), model.parameters(), strict=True)
        distance = {name: (old - new).abs().max().item() for (name, old), new in pairs}
        return max(value for name, value in distance.items() if name.startswith("backbone.")), distance["head.weight"]

    run = RunFolder.prepare(tmp_path / "run", {})
    if steps == 1:
        model = built()
        train(model, toy.ToyTask(), config.model_copy(update={"steps": 1}), run, progress=False)
        assert moved(model) == pytest.approx((1e-4, 1e-2), rel=0.02)
        return
    whole, again = built(), built()
    train(whole, toy.ToyTask(), config, run, progress=False)
    other = RunFolder.prepare(tmp_path / "other", {})
    fails = toy.ToyTask(hook=lambda first: (_ for _ in ()).throw(InputError("gone")) if first == 8 else None)
    with pytest.raises(InputError, match="gone"):
        train(built(), fails, config, other, progress=False)
    assert train(again, toy.ToyTask(), config, other, progress=False).resumed_from == 1
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    assert moved(again)[0] < 3e-4


def test_error_in_the_data_reaches_the_caller_and_the_run_goes_on_from_its_checkpoint(toy, tmp_path):
    toy.toy_train(tmp_path / "whole", toy.toy_config())

    def fail(first: int) -> None:
        if first == 7 * 8:
            raise InputError("refs.fa, record x: unreadable")

    with pytest.raises(InputError, match="record x"):
        toy.toy_train(tmp_path / "run", toy.toy_config(), toy.ToyTask(hook=fail))
    assert toy.toy_train(tmp_path / "run", toy.toy_config()).resumed_from == 5
    assert toy.weights(tmp_path / "run") == toy.weights(tmp_path / "whole")


def test_everything_borrowed_is_given_back(toy, tmp_path):
    config = toy.toy_config(steps=2)
    run = RunFolder.prepare(tmp_path / "run", {})
    model = toy.ToyClassifier().eval()
    model.dropout.train()
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    train(model, toy.ToyTask(), config, run, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert not model.training
    assert model.dropout.training


def test_too_large_a_batch_names_what_to_lower(toy, tmp_path):
    def out_of_memory(logits):
        raise torch.OutOfMemoryError("CUDA out of memory")

    config = toy.toy_config()
    run = RunFolder.prepare(tmp_path / "run", {})
    with pytest.raises(ConfigError, match=r"train\.micro_batch: 8 windows of 24 tokens"):
        train(toy.ToyClassifier(poison=out_of_memory), toy.ToyTask(poison=3), config, run, progress=False)


def test_too_long_a_window_of_a_mamba_model_is_answered_with_what_would_fit(toy, tmp_path):
    model = SequenceClassifier(MambaConfig(d_model=8, n_layer=1), classes=toy.ToyTask().classes)

    def out_of_memory(module, given):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model.register_forward_pre_hook(out_of_memory)
    run = RunFolder.prepare(tmp_path / "run", {})
    with pytest.raises(ConfigError) as caught:
        train(model, toy.ToyTask(), toy.toy_config(), run, progress=False)
    first, again, *sizes = caught.value.problems
    assert again.startswith("train.recompute=true")
    assert "; set train.recompute=true or train.time_chunk, or lower train.micro_batch, which change no result" in first
    assert [size.partition(":")[0] for size in sizes[:2]] == ["train.time_chunk=24", "train.time_chunk=12"]
    assert all("about " in size and size.endswith(" GiB") for size in sizes)


def test_another_process_in_the_folder_is_refused(toy, tmp_path):
    run = RunFolder.prepare(tmp_path / "run", {})
    with run.lock(), pytest.raises(ConfigError, match=f"process \\(id {os.getpid()}\\) works in"):
        train(toy.ToyClassifier(), toy.ToyTask(), toy.toy_config(), run, progress=False)


def test_config_gathers_bounds_and_cross_checks():
    for wrong in ({"steps": 0}, {"batch": 4, "micro_batch": 5}, {"lr": 1e-4, "min_lr": 1e-3}, {"betas": (0.9, 1.0)}):
        with pytest.raises(ValidationError):
            TrainConfig(**wrong)
    with pytest.raises(ValidationError, match="Extra inputs"):
        TrainConfig(step=3)


def test_every_setting_is_described():
    assert all(field.description for field in TrainConfig.model_fields.values())


def test_learning_rate_is_continuous_where_the_warm_up_ends():
    config = TrainConfig(steps=100, warmup=0.1, lr=1.0, min_lr=0.1)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert all(earlier > later for earlier, later in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


def test_real_classifier_learns_and_its_artefact_is_read_back(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDOMAINS_KERNELS", "reference")
    config = toy.toy_config(steps=30, checkpoint_every=100, lr=2e-2, weight_decay=0.0)
    run = RunFolder.prepare(tmp_path / "run", {})
    with seeded(0):
        model = SequenceClassifier(MambaConfig(d_model=16, n_layer=1), classes=toy.CLASSES, pooling="mean")
    train(model, toy.ToyTask(), config, run, progress=False)
    rows = read_metrics(run.metrics)
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    again = SequenceClassifier.from_pretrained(run.artefact)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
