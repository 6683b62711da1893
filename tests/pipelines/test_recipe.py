"""What each step of a run reads: the length warm-up keeps the tokens, the stream and the exact resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from seqdomains.errors import ConfigError
from seqdomains.pipelines.recipe import TrainConfig, plan_steps

STAGES = ({"until": 0.4, "window": 6}, {"until": 0.7, "window": 12})


def test_every_step_reads_as_many_tokens_and_no_sample_twice():
    plans = plan_steps(TrainConfig(steps=10, batch=3, micro_batch=2, length_warmup=STAGES), 24)
    assert [plan.window for plan in plans] == [6] * 4 + [12] * 3 + [24] * 3
    assert {plan.window * plan.windows for plan in plans} == {72}
    assert {plan.window * plan.at_once for plan in plans} == {48}
    samples = [first + i for plan in plans for first, count in plan.parts() for i in range(count)]
    assert samples == list(range(4 * 12 + 3 * 6 + 3 * 3))


def test_short_windows_take_no_more_memory_than_the_chunks_of_long_ones():
    config = TrainConfig(steps=10, batch=4, micro_batch=2, time_chunk=8, length_warmup=STAGES)
    plans = plan_steps(config, 24)
    assert [(plan.window, plan.at_once) for plan in plans[::3]] == [(6, 2), (6, 2), (12, 2), (24, 2)]
    plans = plan_steps(TrainConfig(steps=2, batch=4, time_chunk=12, length_warmup=({"until": 0.5, "window": 3},)), 24)
    assert [(plan.windows, plan.at_once) for plan in plans] == [(32, 16), (4, 4)]


def test_short_windows_take_no_more_memory_than_a_ranks_share_of_long_ones():
    config = TrainConfig(steps=2, batch=8, time_chunk=12, length_warmup=({"until": 0.5, "window": 3},))
    plans = plan_steps(config, 24, places=4)
    assert [(plan.windows, plan.at_once) for plan in plans] == [(64, 8), (8, 2)]


def test_windows_too_short_for_their_ranks_are_refused_before_the_run():
    config = TrainConfig(sequence_ranks=3, length_warmup=({"until": 0.5, "window": 8},), time_chunk=20)
    with pytest.raises(ConfigError, match=r"train\.sequence_ranks: 8 tokens are too few for 3 ranks, expected 9"):
        plan_steps(config, 24)
    with pytest.raises(ConfigError, match=r"train\.sequence_ranks: 7 tokens"):
        plan_steps(TrainConfig(sequence_ranks=3, time_chunk=7), 24)


def test_a_batch_may_be_given_in_tokens():
    config = TrainConfig(steps=2, batch_tokens=100, micro_batch=50, length_warmup=({"until": 0.5, "window": 6},))
    assert [(plan.window, plan.windows, plan.at_once) for plan in plan_steps(config, 24)] == [(6, 16, 16), (24, 4, 4)]
    with pytest.raises(ConfigError, match=r"train\.batch_tokens: 100 hold no window of 102"):
        plan_steps(config, 102)


def test_a_stage_must_divide_the_window():
    with pytest.raises(ConfigError, match=r"5 does not divide data\.window 24"):
        plan_steps(TrainConfig(length_warmup=({"until": 0.5, "window": 5},)), 24)


def test_lengths_take_turns_after_the_warm_up():
    plans = plan_steps(TrainConfig(steps=6, batch=1, length_warmup=STAGES[:1], length_cycle=(8, 24)), 24)
    assert [plan.window for plan in plans] == [6, 6, 6, 24, 8, 24]
    assert [plan.first for plan in plans] == [0, 4, 8, 12, 13, 16]
    with pytest.raises(ConfigError, match="length_cycle: 7 does not divide"):
        plan_steps(TrainConfig(length_cycle=(7,)), 24)


def test_stages_must_follow_each_other():
    with pytest.raises(ValidationError, match="must rise"):
        TrainConfig(length_warmup=({"until": 0.5, "window": 5}, {"until": 0.4, "window": 10}))


def test_a_run_with_warm_up_says_its_windows_and_resumes_within_a_stage(tmp_path: Path, toy):
    config = toy.toy_config(steps=10, batch=4, log_every=1, checkpoint_every=2, length_warmup=STAGES)
    toy.toy_train(tmp_path / "whole", config)
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [row["window"] for row in rows] == [6] * 4 + [12] * 3 + [24] * 3
    assert rows[-1]["samples"] == 4 * 16 + 3 * 8 + 3 * 4

    with pytest.raises(RuntimeError, match="no more"):
        toy.toy_train(tmp_path / "stopped", config, toy.ToyTask(hook=_fail_from(sample=80)))
    assert toy.toy_train(tmp_path / "stopped", config).resumed_from in (4, 6)
    assert toy.weights(tmp_path / "whole") == toy.weights(tmp_path / "stopped")


def _fail_from(sample: int):
    def hook(first: int) -> None:
        if first >= sample:
            raise RuntimeError("no more")

    return hook
