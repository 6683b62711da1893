"""Checkpoints are whole, checked, or refused by name."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil

import pytest
import safetensors.torch
import torch
from torch import nn

from seqdomains.errors import InputError
from seqdomains.pipelines.checkpoint import load_checkpoint, load_latest, save_checkpoint
from seqdomains.pipelines.training_state import capture, restore


def save(folder, step, value=1.0, keep=2):
    tensors = {"model": {"weight": torch.full((64, 64), value)}, "random": {"cpu": torch.arange(3, dtype=torch.uint8)}}
    return save_checkpoint(folder, step, tensors, {"seconds": 0.1}, keep=keep)


def flip(path, position=-1):
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


def test_the_newest_two_stay(tmp_path):
    for step in (5, 100, 20):
        save(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000020", "step-00000100"]
    assert load_latest(tmp_path).step == 100


def test_no_checkpoint_is_none(tmp_path):
    assert load_latest(tmp_path / "missing") is None
    assert load_latest(tmp_path) is None


@pytest.mark.parametrize("name", ["model.safetensors", "random.safetensors", "state.json"])
def test_flipped_bit_is_refused_with_both_hashes(tmp_path, name):
    path = save(tmp_path, 3)
    expected = json.loads((path / "manifest.json").read_text())["files"][name]["sha256"]
    flip(path / name)
    with pytest.raises(InputError, match=rf"step-00000003: {name} has SHA-256 [0-9a-f]{{64}}, expected {expected}"):
        load_checkpoint(path)


def test_damage_of_every_kind_names_the_file(tmp_path):
    path = save(tmp_path, 3)
    kept = tmp_path / "kept"
    shutil.copytree(path, kept)

    def damaged(change, match):
        shutil.rmtree(path)
        shutil.copytree(kept, path)
        change()
        with pytest.raises(InputError, match=match):
            load_checkpoint(path)

    model, manifest = path / "model.safetensors", path / "manifest.json"
    damaged(lambda: model.write_bytes(model.read_bytes()[:-3]), "model.safetensors has .* bytes, expected")
    damaged(model.unlink, "cannot read model.safetensors: No such file")
    damaged(manifest.unlink, "cannot read manifest.json")
    damaged(lambda: manifest.write_text("{"), "manifest.json is not JSON")
    damaged(lambda: manifest.write_text("[]"), "manifest.json holds list")
    damaged(lambda: manifest.write_text('{"format_version": 9}'), "format_version 9, expected 1")
    damaged(lambda: manifest.write_text('{"format_version": 1, "files": {}}'), "does not list state.json")
    escape = {"format_version": 1, "files": {"state.json": {}, "../kept/state.json": {}}}
    damaged(lambda: manifest.write_text(json.dumps(escape)), "state.json has .* expected None")
    escape["files"] = {"../kept/state.json": {}, "state.json": {}}
    damaged(lambda: manifest.write_text(json.dumps(escape)), "illegal entry '../kept/state.json'")


def test_damaged_one_is_set_aside_and_the_one_before_it_used(tmp_path, caplog):
    save(tmp_path, 1, 1.0)
    flip(save(tmp_path, 2, 2.0) / "model.safetensors")
    checkpoint = load_latest(tmp_path)
    assert checkpoint.step == 1
    assert checkpoint.tensors["model"]["weight"][0, 0] == 1.0
    assert "step-00000002: model.safetensors" in caplog.text
    assert (tmp_path / "step-00000002.damaged").is_dir()
    save(tmp_path, 2, 2.0)
    assert load_latest(tmp_path).step == 2


def test_all_damaged_is_an_error_that_lists_them(tmp_path):
    for step in (1, 2):
        flip(save(tmp_path, step) / "state.json")
    with pytest.raises(InputError, match=r"none .* is whole:\n.*step-00000002.*\n.*step-00000001"):
        load_latest(tmp_path)


def test_non_finite_is_neither_written_nor_read(tmp_path):
    with pytest.raises(InputError, match="step 1: model: tensor weight holds non-finite"):
        save(tmp_path, 1, float("nan"))
    assert list(tmp_path.iterdir()) == []
    path = save(tmp_path, 1)
    data = safetensors.torch.save({"weight": torch.tensor([1.0, float("inf")])})
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["model.safetensors"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match="step-00000001: model: tensor weight holds non-finite"):
        load_checkpoint(path)


def test_full_disk_leaves_nothing_half_written(tmp_path):
    """A limit on the file size fails in the middle of a write, as a full disk does."""
    before = save(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(
            InputError, match=r"cannot write the checkpoint .*step-00000002: File too large; free space"
        ):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == [before]
    assert load_latest(tmp_path).step == 1


def test_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write the checkpoint .*: Not a directory"):
        save(tmp_path / "file" / "checkpoints", 1)


def trained(steps=2):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(steps):
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def test_state_comes_back_bit_for_bit_with_buffers_and_random_state(tmp_path):
    model, optimizer = trained()
    cpu = torch.device("cpu")
    save_checkpoint(tmp_path, 2, capture(model, optimizer, device=cpu), {})
    expected = torch.rand(2)
    other, other_optimizer = trained(0)
    restore(load_latest(tmp_path), other, other_optimizer, device=cpu)
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    before, after = optimizer.state_dict()["state"], other_optimizer.state_dict()["state"]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[i][key], after[i][key]) for i in before for key in ("step", "exp_avg", "exp_avg_sq"))


def test_checkpoint_of_another_model_is_refused_and_changes_nothing(tmp_path):
    model, optimizer = trained()
    cpu = torch.device("cpu")
    save_checkpoint(tmp_path, 2, capture(model, optimizer, device=cpu), {})
    checkpoint = load_latest(tmp_path)
    wider = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    before = wider[0].bias.clone()
    with pytest.raises(InputError, match=r"checkpoint of step 2: tensor 0.weight is torch.float32 \(2, 3\), expected"):
        restore(checkpoint, wider, torch.optim.AdamW(wider.parameters()), device=cpu)
    assert torch.equal(wider[0].bias, before)
    del checkpoint.tensors["optimizer"]["exp_avg/0.bias"]
    with pytest.raises(InputError, match="do not cover every parameter alike"):
        restore(checkpoint, model, optimizer, device=cpu)
    checkpoint.tensors["optimizer"]["exp_avg/0.bias"] = torch.zeros(5)
    with pytest.raises(InputError, match=r"optimizer tensor exp_avg/0.bias of shape \(5,\) fits no parameter"):
        restore(checkpoint, model, optimizer, device=cpu)


def sealed(path, name, data):
    """Put other bytes into a checkpoint, with a manifest that fits them."""
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return manifest


@pytest.mark.parametrize("name", ["..", "../x", "/etc/passwd", "a\0b", "", ".hidden", "x" * 200])
def test_a_manifest_names_files_of_the_checkpoint_alone(tmp_path, name):
    path = save(tmp_path, 1)
    sealed(path, name, b"")
    with pytest.raises(InputError, match=r"manifest.json has an illegal entry"):
        load_checkpoint(path)


@pytest.mark.parametrize("state", [b"{}", b'{"step": "1", "state": {}}', b'{"step": -1, "state": {}}', b'{"step": 1}'])
def test_a_state_without_its_facts_is_refused(tmp_path, state):
    path = save(tmp_path, 1)
    sealed(path, "state.json", state)
    (path / "state.json").write_bytes(state)
    with pytest.raises(InputError, match=r"state.json has no step and state"):
        load_checkpoint(path)


def test_json_that_is_nested_too_deep_is_refused(tmp_path):
    path = save(tmp_path, 1)
    (path / "manifest.json").write_bytes(b"[" * 100_000)
    with pytest.raises(InputError, match=r"manifest.json is not JSON: nested too deep"):
        load_checkpoint(path)


@pytest.mark.parametrize(("dtype", "message"), [("F4", "not a safetensors file"), ("F8_E4M3", "non-finite")])
def test_types_of_less_than_16_bits_are_looked_into(tmp_path, dtype, message):
    path = save(tmp_path, 1)
    header = json.dumps({"w": {"dtype": dtype, "shape": [8], "data_offsets": [0, 4 if dtype == "F4" else 8]}}).encode()
    data = len(header).to_bytes(8, "little") + header + b"\xff" * (4 if dtype == "F4" else 8)
    sealed(path, "model.safetensors", data)
    (path / "model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match=message):
        load_checkpoint(path)
