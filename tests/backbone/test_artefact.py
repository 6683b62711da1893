from __future__ import annotations

import json
import os
import stat
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from seqdomains.backbone import MambaConfig, MambaLM, SequenceClassifier, from_pretrained, save_pretrained
from seqdomains.errors import InputError

SIGNATURE = {"domain": "genomics", "alphabet": "ACGT", "window": 128, "nested": {"a": [1, None, True]}}


@pytest.fixture
def classifier(config, disturb):
    return disturb(SequenceClassifier(config, classes=("human", "gorilla"), pooling="mean")).eval()


@pytest.fixture
def folder(tmp_path, classifier):
    save_pretrained(classifier, tmp_path / "model", signature=SIGNATURE)
    return tmp_path / "model"


def edit(folder, change):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_a_classifier_comes_back_as_it_was(folder, classifier, tokens):
    loaded = from_pretrained(folder)
    assert isinstance(loaded.model, SequenceClassifier)
    assert not loaded.model.training
    assert loaded.model.config == classifier.config
    assert (loaded.model.classes, loaded.model.pooling) == (("human", "gorilla"), "mean")
    assert loaded.signature == SIGNATURE
    assert loaded.config == json.loads((folder / "config.json").read_text())
    with torch.no_grad():
        assert torch.equal(loaded.model(tokens), classifier(tokens))


def test_a_loaded_model_trains(folder, tokens):
    model = from_pretrained(folder).model.train()
    model(tokens).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_comes_back_with_its_head(tmp_path, config, disturb, tokens, tied):
    model = disturb(MambaLM(config.model_copy(update={"tie_embeddings": tied})))
    model.save_pretrained(tmp_path / "model", signature={})
    assert ("lm_head.weight" in load_file(tmp_path / "model" / "model.safetensors")) is not tied
    copy = MambaLM.from_pretrained(tmp_path / "model")
    assert (copy.lm_head.weight is copy.backbone.embedding.weight) is tied
    assert len(list(copy.parameters())) == len(list(model.parameters()))
    with torch.no_grad():
        assert torch.equal(copy(tokens), model(tokens))


def test_a_loaded_model_does_not_depend_on_its_file(folder, classifier):
    model = from_pretrained(folder).model
    path = folder / "model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as handle:
        handle.write(bytes(size))
    for parameter, saved in zip(model.parameters(), classifier.parameters(), strict=True):
        assert torch.equal(parameter, saved)


def test_reading_draws_no_random_numbers(folder):
    before = torch.random.get_rng_state()
    from_pretrained(folder)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_same_model_gives_the_same_bytes(folder, tmp_path, classifier):
    save_pretrained(from_pretrained(folder).model, tmp_path / "again", signature=SIGNATURE)
    for name in ("model.safetensors", "config.json"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_files_are_as_readable_as_the_users_own(folder):
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask, path


def test_half_precision_is_written_in_fp32(tmp_path, classifier):
    save_pretrained(classifier.bfloat16(), tmp_path / "model", signature={})
    loaded = from_pretrained(tmp_path / "model").model
    assert torch.equal(loaded.head.weight, classifier.head.weight.float())


def test_a_non_finite_model_is_not_saved(tmp_path, classifier):
    with torch.no_grad():
        classifier.head.bias[1] = torch.inf
    with pytest.raises(InputError, match=r"head\.bias holds 1 non-finite of 2 values"):
        save_pretrained(classifier, tmp_path / "model", signature={})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_artefact(folder, classifier, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr("seqdomains.backbone.artefact.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_pretrained(classifier, folder, signature={})
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_what_is_no_artefact_is_not_saved(tmp_path, classifier):
    with pytest.raises(TypeError, match="MambaBackbone is no artefact"):
        save_pretrained(classifier.backbone, tmp_path / "model", signature={})
    with pytest.raises(ValueError, match="signature"):
        save_pretrained(classifier, tmp_path / "model", signature={"alphabet": object()})
    assert list(tmp_path.iterdir()) == []


def test_another_class_is_refused(folder):
    with pytest.raises(InputError, match="holds a SequenceClassifier, expected a MambaLM"):
        MambaLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda c: c.update(format_version=2), "format_version is 2, expected 1"),
        (lambda c: c.pop("format_version"), "format_version is null, expected 1"),
        (lambda c: c.update(format_version=True), "format_version is true, expected 1"),
        (lambda c: c.update(format_version="1"), 'format_version is "1", expected 1'),
        (lambda c: c.update(surprise=1), "surprise: Extra inputs"),
        (lambda c: c["model"].update(d_modle=1), "model.d_modle: Extra inputs"),
        (lambda c: c["model"].pop("d_model"), "model.d_model: Field required"),
        (lambda c: c["model"].update(d_model="24"), "model.d_model: .*valid integer"),
        (lambda c: c["model"].update(n_layer=-3), "model.n_layer: .*greater than or equal to 1"),
        (lambda c: c["model"].update(bias=1), "model.bias: .*valid boolean"),
        (lambda c: c["model"].update(norm_eps=float("nan")), "model.norm_eps: .*finite"),
        (lambda c: c.pop("classes"), "classes: Field required"),
        (lambda c: c.update(classes=["a", "a"]), "classes: .*each once"),
        (lambda c: c.update(pooling="max"), "pooling: .*'last', 'mean' or 'both'"),
        (lambda c: c.update(architecture="Hyena"), "Hyena"),
        (lambda c: c.pop("architecture"), "architecture"),
        (lambda c: c.update(architecture="MambaLM"), "pooling: Extra inputs"),
        (lambda c: c.pop("signature"), "signature: Field required"),
        (lambda c: c.update(model_type="mamba"), "transformers checkpoint.*load_official"),
    ],
)
def test_a_wrong_configuration_is_refused_by_name(folder, change, found):
    edit(folder, change)
    with pytest.raises(InputError, match=found) as caught:
        from_pretrained(folder)
    assert str(caught.value).startswith(str(folder / "config.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "found"),
    [(b"{", "not JSON"), (b"", "not JSON"), (b"\xff\xfe", "not JSON"), (b"[1]", "JSON list, expected an object")],
)
def test_a_configuration_that_is_no_json_object(folder, content, found):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=found):
        from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t: t.pop("head.bias"), r"tensor head.bias is missing, expected shape \[2\]"),
        (lambda t: t.update(extra=torch.zeros(1)), "tensor extra is unknown"),
        (lambda t: t.update({"head.bias": torch.zeros(3)}), r"head.bias has shape \[3\], expected \[2\]"),
        (lambda t: t.update({"head.bias": torch.zeros(2).half()}), "head.bias is of type F16, expected F32"),
        (
            lambda t: t.update({"head.bias": torch.zeros(2, dtype=torch.int32)}),
            "head.bias is of type I32, expected F32",
        ),
        (lambda t: t["head.bias"].fill_(torch.nan), "head.bias holds 2 non-finite of 2 values"),
        (lambda t: t["head.weight"][1, 3:5].fill_(-torch.inf), "head.weight holds 2 non-finite of 48 values"),
        (
            lambda t: t.clear(),
            "and 28 more",  # of 3 blocks of 10 and 4 others, 6 shown
        ),
    ],
)
def test_wrong_tensors_are_refused_by_name(folder, change, found):
    edit_weights(folder, change)
    with pytest.raises(InputError, match=found) as caught:
        from_pretrained(folder)
    assert str(caught.value).startswith(str(folder / "model.safetensors"))
    assert "copy or export the artefact again" in str(caught.value)


def test_weights_of_another_size_are_refused_before_they_are_allocated(folder):
    # 10^12 inner weights would not fit in memory: the header alone must decide.
    edit(folder, lambda c: c["model"].update(d_model=1_000_000))
    with pytest.raises(InputError, match=r"expected \[11, 1000000\]"):
        from_pretrained(folder)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [({"n_layer": 10**9}, "n_layer is 1000000000"), ({"d_model": 10**12}, "no model of these sizes")],
)
def test_sizes_that_no_model_has_are_refused_before_it_is_built(folder, sizes, words):
    edit(folder, lambda c: c["model"].update(sizes))
    with pytest.raises(InputError, match=words):
        from_pretrained(folder)


@pytest.mark.parametrize("name", ["a\tb", "a\nb", ""])
def test_class_names_that_break_a_table_are_refused(folder, name):
    edit(folder, lambda c: c.update(classes=["other", name]))
    with pytest.raises(InputError, match="without tabs and line ends"):
        from_pretrained(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data[:5],
        lambda data: b"",
        lambda data: data + b"\0",
        lambda data: struct.pack("<Q", 1 << 40) + data[8:],
        lambda data: data[:8] + b"}" + data[9:],
        lambda data: b"PK\x03\x04" + data,
    ],
    ids=["last byte", "half", "5 bytes", "empty", "longer", "header size", "header", "zip"],
)
def test_damaged_weights_are_refused(folder, damage):
    path = folder / "model.safetensors"
    data = damage(path.read_bytes())
    path.write_bytes(data)
    with pytest.raises(InputError, match=f"{len(data)} bytes that are no whole safetensors file"):
        from_pretrained(folder)


def test_other_weights_than_the_configuration_was_written_for_are_refused(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"model.safetensors: other bytes than config.json was written for \(SHA-256 "):
        from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        from_pretrained(folder)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="absent: no such folder"):
        from_pretrained(tmp_path / "absent")


def test_an_artefact_of_defaults_left_out_still_reads(folder):
    # A later version may add a key with a default; what was written before must stay readable.
    edit(folder, lambda c: c["model"].pop("conv_bias"))
    assert from_pretrained(folder).model.config == MambaConfig(d_model=24, n_layer=3, vocab_size=11, d_state=5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "not JSON .nested too deep"),
        (b'{"format_version": ' + b"9" * 5000 + b"}", "not JSON .Exceeds the limit"),
        (b" " * (5 << 20), "not JSON .over 4194304 bytes"),
    ],
)
def test_a_hostile_configuration_is_refused(folder, content, message):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=f"config.json: {message}"):
        from_pretrained(folder)


@pytest.mark.parametrize("key", ["d_model", "d_state", "vocab_size", "dt_rank"])
def test_sizes_beyond_64_bits_are_refused(folder, key):
    edit(folder, lambda c: c["model"].update({key: 10**30}))
    with pytest.raises(InputError, match="no model of these sizes"):
        from_pretrained(folder)


def test_blocks_are_not_built_before_their_weights_are_seen(folder):
    # 20,000 empty tensors once meant 20,000 blocks, which took half a minute.
    count = 20_000
    edit(folder, lambda c: c["model"].update(n_layer=count))
    header = json.dumps(
        {f"a{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(count)}
    ).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match=r"tensor backbone.embedding.weight is missing.* more"):
        from_pretrained(folder)


def test_a_header_of_megabytes_is_refused(folder):
    header = b"{}".ljust(3 << 20)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError, match="a header of 3145728 bytes, expected at most 2097152"):
        from_pretrained(folder)
