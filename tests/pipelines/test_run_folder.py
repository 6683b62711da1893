"""Run folder, metrics, prefetching: what a run stands on."""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from seqdomains.errors import ConfigError, InputError
from seqdomains.pipelines.environment import session_facts
from seqdomains.pipelines.interrupts import stop_on_signals
from seqdomains.pipelines.metrics import MetricsLog, read_metrics
from seqdomains.pipelines.prefetch import prefetched
from seqdomains.pipelines.run_folder import RunFolder, write_json

CONFIG = {"model": {"d_model": 8}, "train": {"steps": 3, "betas": [0.9, 0.95]}, "evaluate": {"batch_size": 2}}


def test_every_key_that_differs_is_listed(tmp_path):
    RunFolder.prepare(tmp_path / "run", CONFIG)
    changed = {"model": {"d_model": 16, "n_layer": 1}, "train": {"steps": 3}, "evaluate": {"batch_size": 4}}
    with pytest.raises(ConfigError) as caught:
        RunFolder.prepare(tmp_path / "run", changed)
    heads = [problem.split(" differs")[0] for problem in caught.value.problems]
    assert heads == ["model.d_model: 16", "model.n_layer: 1", "train.betas: (unset)"]
    assert RunFolder(tmp_path / "run").read_config() == CONFIG


def test_a_run_of_before_a_key_existed_goes_on_where_it_is_null(tmp_path):
    RunFolder.prepare(tmp_path / "run", CONFIG)
    model = {**CONFIG["model"], "newer": None}
    RunFolder.prepare(tmp_path / "run", CONFIG | {"model": model})
    RunFolder.prepare(tmp_path / "run", CONFIG)
    with pytest.raises(ConfigError, match=r"model\.newer: 1 differs from \(unset\)"):
        RunFolder.prepare(tmp_path / "run", CONFIG | {"model": model | {"newer": 1}})


def test_keys_that_leave_the_weights_alone_may_change(tmp_path):
    RunFolder.prepare(tmp_path / "run", CONFIG)
    changed = CONFIG | {"evaluate": {"batch_size": 64}, "data": {"cache": "/elsewhere"}}
    with pytest.raises(ConfigError, match=r"data\.cache"):
        RunFolder.prepare(tmp_path / "run", changed)
    RunFolder.prepare(tmp_path / "run", changed, may_change=("evaluate", "data.cache"))
    assert RunFolder(tmp_path / "run").read_config() == changed


def test_tuples_and_lists_are_one_thing(tmp_path):
    RunFolder.prepare(tmp_path / "run", CONFIG)
    RunFolder.prepare(tmp_path / "run", CONFIG | {"train": {"steps": 3, "betas": (0.9, 0.95)}})


def test_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match=r"not empty and no run folder \(it holds thesis.tex\)"):
        RunFolder.prepare(tmp_path, CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == ["thesis.tex"]


def test_left_overs_of_a_killed_process_are_cleared(tmp_path):
    run = RunFolder.prepare(tmp_path / "run", CONFIG)
    (run.path / ".config.yaml.17.partial").write_text("half")
    (run.checkpoints / ".step-00000002.17.partial").mkdir(parents=True)
    RunFolder.prepare(tmp_path / "run", CONFIG)
    assert not list(run.path.rglob("*.partial"))


def test_a_strangers_folder_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match=r"no run folder \(it holds thesis\.tex\)"):
        RunFolder.prepare(tmp_path, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_path_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the run folder"):
        RunFolder.prepare(tmp_path / "file", CONFIG)
    with pytest.raises(InputError, match="cannot write the run folder"):
        RunFolder.prepare(tmp_path / "file" / "run", CONFIG)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_write_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        RunFolder.prepare(tmp_path / "run", CONFIG)


def test_what_is_no_run_folder_says_so(tmp_path):
    with pytest.raises(InputError, match="is no run folder"):
        RunFolder(tmp_path).read_config()
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not YAML"):
        RunFolder(tmp_path).read_config()
    (tmp_path / "config.yaml").write_text("- 1")
    with pytest.raises(InputError, match="holds list"):
        RunFolder(tmp_path).read_config()
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(InputError, match="cannot read"):
        RunFolder(tmp_path).read_evaluation()


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_metrics_drop_what_came_after_the_checkpoint_and_an_unfinished_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2}\n{"step": 2, "loss": 3}\n{"step": 3, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    with MetricsLog(path, step=1) as log:
        log.append({"step": 2, "loss": 2.5})
    assert read_metrics(path) == [{"step": 1, "loss": 2}, {"step": 2, "loss": 2.5}]


def test_damaged_line_of_metrics_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nrubbish\n{"step": 3}\n')
    with pytest.raises(InputError, match="line 2: no JSON object with a step: 'rubbish'"):
        read_metrics(path)


def test_prefetch_keeps_order_and_stays_ahead_by_its_depth():
    made = []

    def source():
        for number in range(100):
            made.append(number)
            yield number

    with prefetched(source(), depth=3) as items:
        assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
        time.sleep(0.2)
        assert len(made) <= 5 + 3 + 1
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_prefetch_raises_where_the_item_would_have_come():
    def source():
        yield 1
        raise InputError("record 2 is bad")

    with prefetched(source()) as items:
        assert next(items) == 1
        with pytest.raises(InputError, match="record 2"):
            next(items)


def test_signals_are_left_alone_outside_the_main_thread():
    seen = []

    def work():
        with stop_on_signals() as stop:
            seen.append(stop.signum)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


def test_environment_names_what_a_result_depends_on():
    facts = session_facts(torch.device("cpu"), command=["/usr/bin/seqdomains", "x y"])
    assert facts["command"] == "seqdomains 'x y'"
    assert facts["torch"] == torch.__version__.partition("+")[0] or facts["torch"] == torch.__version__
    assert set(facts["kernels"]) == {"selective_scan", "causal_conv1d", "rms_norm"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "not YAML: .*decode"),
        (b"[" * 100_000, "nested over 50 deep"),
        (b"a: &a [x, x]\nb: [*a, *a]\n", "aliases"),
        (b"a: " + b"9" * 5000, "4300 digits"),
        (b"a: 1\n" * 100_000, "over 131072 bytes"),
    ],
)
def test_a_hostile_configuration_is_refused(tmp_path, content, message):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=f"config.yaml.*{message}"):
        RunFolder(tmp_path).read_config()


@pytest.mark.parametrize("content", ["{}", '{"sessions": 1}', '{"sessions": [1]}'])
def test_an_environment_without_sessions_is_refused(tmp_path, content):
    (tmp_path / "environment.json").write_text(content)
    with pytest.raises(InputError, match=r"environment.json lists no sessions"):
        RunFolder(tmp_path).sessions()


@pytest.mark.parametrize("line", [b"\xff", b'{"step": 1e999}', b"[" * 100_000])
def test_hostile_metrics_are_refused(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_bytes(line + b'\n{"step": 2}\n')
    with pytest.raises(InputError, match="line 1: no JSON object with a step"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_words_that_yaml_reads_otherwise_come_back(tmp_path):
    config = {"classes": ["1e5", "no", "012", "09"], "rate": 1e-05, "labels": None}
    assert RunFolder.prepare(tmp_path / "run", config).read_config() == config


def test_a_configuration_that_could_not_be_read_again_is_refused(tmp_path):
    config = {"data": {"paths": [f"/genomes/assembly-{number}.fa.gz" for number in range(10_000)]}}
    with pytest.raises(ConfigError, match="name folders in place of so many files"):
        RunFolder.prepare(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()
