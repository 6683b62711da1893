"""What a model reads of sound: torchaudio's codes and spectra, and the same however a sound is cut."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from seqdomains.audio.front_end import (
    Encoder,
    SoundInput,
    decode_linear,
    decode_mu_law,
    encode_linear,
    encode_mu_law,
    input_of,
)
from seqdomains.errors import InputError

FORMS = (
    SoundInput(codec="mu-law"),
    SoundInput(codec="linear"),
    SoundInput(codec="waveform", patch=16, scale=3.0),
    SoundInput(codec="waveform", patch=1),
    SoundInput(codec="log-mel", patch=160, shift=-3.0, scale=0.5),
    SoundInput(codec="log-mel", patch=400),
)


@pytest.fixture
def torchaudio():
    try:
        import torchaudio
    except (ImportError, OSError) as error:  # its wheel links a CUDA that may not be here
        pytest.skip(f"torchaudio cannot be imported: {error}")
    return torchaudio


@pytest.fixture(scope="module")
def sound():
    random = np.random.default_rng(0)
    return (random.normal(size=5_003) * 0.2).astype(np.float32)


def test_all_samples_of_16_bits_have_the_codes_of_torchaudio(torchaudio):
    import torch

    samples = np.arange(-(1 << 15), 1 << 15, dtype=np.float32) / (1 << 15)
    expected = torchaudio.functional.mu_law_encoding(torch.from_numpy(samples), 256).numpy()
    found = encode_mu_law(samples)
    assert found[1 << 15] == 128
    # A sample that lies on a border may fall to either side by the last bit of a logarithm.
    assert (found != expected).mean() < 1e-4
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_codes_become_the_samples_of_torchaudio(torchaudio):
    import torch

    codes = np.arange(256, dtype=np.uint8)
    expected = torchaudio.functional.mu_law_decoding(torch.from_numpy(codes).long(), 256).numpy()
    np.testing.assert_allclose(decode_mu_law(codes), expected, atol=1e-6)


@pytest.mark.parametrize(("encode", "decode"), [(encode_mu_law, decode_mu_law), (encode_linear, decode_linear)])
def test_every_code_comes_back(encode, decode):
    codes = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(encode(decode(codes)), codes)
    assert encode(np.zeros(1, np.float32))[0] == 128
    np.testing.assert_array_equal(encode(np.array([-7, 7], np.float32)), [0, 255])


def test_spectra_are_those_of_torchaudio(torchaudio, sound):
    import torch

    given = SoundInput(rate=8000, codec="log-mel", patch=80, span=256, mels=40)
    mel = torchaudio.transforms.MelSpectrogram(8000, n_fft=256, hop_length=80, n_mels=40, center=False)
    expected = mel(torch.from_numpy(sound)).clamp(min=1e-10).log().numpy().T
    np.testing.assert_allclose(given.encode(sound), expected, atol=2e-3)


@pytest.mark.parametrize("given", FORMS, ids=lambda given: f"{given.codec}-{given.patch}")
@pytest.mark.parametrize("frames", [1, 15, 16, 17, 399, 400, 401, 5_003])
@pytest.mark.parametrize("block", [1, 7, 160, 701, 10_000])
def test_it_is_the_same_however_a_sound_is_cut(given, frames, block, sound):
    if block == 1 and frames > 401:
        pytest.skip("slow, and the other blocks show it")
    sound = sound[:frames]
    whole = given.encode(sound)
    encoder = Encoder(given)
    parts = [encoder.push(sound[first : first + block]) for first in range(0, frames, block)]
    found = np.concatenate([*parts, encoder.finish()])
    assert len(whole) == given.positions(frames)
    assert found.dtype == whole.dtype
    np.testing.assert_allclose(found, whole, atol=1e-4)


def test_levels_are_kept():
    quiet = np.full(64, 0.01, np.float32)
    given = SoundInput(codec="waveform", patch=4)
    np.testing.assert_allclose(given.encode(10 * quiet), 10 * given.encode(quiet), rtol=1e-6)


def test_normalisation_is_measured_once_and_kept(sound):
    given = SoundInput(codec="log-mel", patch=160).measured([sound, sound * 2])
    both = np.concatenate([given.encode(sound), given.encode(sound * 2)])
    assert both.mean() == pytest.approx(0, abs=1e-4)
    assert both.std() == pytest.approx(1, abs=1e-4)
    assert given.measured([sound * 100]) == given
    assert SoundInput().measured([sound]) == SoundInput()
    silence = SoundInput(codec="waveform").measured([np.zeros(10, np.float32)])
    assert silence.scale == 1.0


def test_an_artefact_carries_it():
    given = SoundInput(rate=8000, codec="waveform", patch=8, scale=2.5)
    assert input_of(given.signature()) == given


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        ({"domain": "genomics"}, "'genomics'"),
        ({}, "None"),
        ({"domain": "audio"}, "doesn't know"),
        ({"domain": "audio", "input": {"rate": -1}}, "doesn't know"),
        ({"domain": "audio", "input": {"codec": "opus"}}, "doesn't know"),
        ({"domain": "audio", "input": {"surprise": 1}}, "doesn't know"),
    ],
)
def test_another_artefact_is_refused(signature, words):
    with pytest.raises(InputError, match=words):
        input_of(signature)


@pytest.mark.parametrize("wrong", [{"patch": 2}, {"codec": "log-mel", "patch": 500}, {"scale": 0.0}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError):
        SoundInput(**wrong)
