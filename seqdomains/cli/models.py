"""Devices, and the models that users name: found, loaded and asked for what a command needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from seqdomains.backbone import LoadedModel, MambaLM, PatchReconstructor, SequenceClassifier, from_pretrained
from seqdomains.backbone.strands import MeanOfStrands
from seqdomains.errors import ConfigError, InputError
from seqdomains.genomics.alphabet import COMPLEMENT, check_signature
from seqdomains.kernels.dispatch import OPS, implementation
from seqdomains.pipelines.run_folder import RunFolder

Strands = Literal["forward", "both"]
"""Of which strand a classifier is asked; both: the mean of its probabilities."""

# Tokens that go through a model at once. A CPU is half as fast again as with 2^16, whose tensors leave its caches; on a
# GPU an fp32 tensor of a block takes 512 MiB at an inner width of 256, and is halved where that is too much.
TOKENS_ON_CPU = 1 << 14
TOKENS_ON_GPU = 1 << 19


def trained_window(loaded: LoadedModel) -> int:
    """Return the window that an artefact was trained on, in tokens.

    Raises
    ------
    InputError
        Its signature doesn't tell.
    """
    window = loaded.signature.get("window")
    if not isinstance(window, int) or isinstance(window, bool) or window < 1:
        raise InputError(f"the artefact's signature has the window {window!r}, expected a number; give --window")
    return window


def reads_whole_records(loaded: LoadedModel) -> bool:
    """Tell whether a model was trained on records as a whole, so that one shorter than its window is no less to it."""
    return loaded.signature.get("whole_records") is True


def choose_device(name: str | None) -> torch.device:
    """Return the device that --device names; a GPU where there is one if it names none.

    Raises
    ------
    ConfigError
        torch has no such device, it isn't here, or SEQDOMAINS_KERNELS asks for kernels that can't run on it.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if name.partition(":")[0] not in ("cpu", "cuda", "xpu", "mps"):
            raise RuntimeError("expected cpu, cuda, xpu or mps")
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        # torch goes on for 2 kB about what a build could hold
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise ConfigError(f"--device {name}: not usable here ({reason}); seqdomains doctor lists the devices") from None
    for op in OPS:
        implementation(op, device, torch.float32)
    return device


def windows_at_once(device: torch.device, window: int) -> int:
    """Return how many windows go through a model at once, to begin with.

    Examples
    --------
    >>> windows_at_once(torch.device("cpu"), 4096)
    4
    """
    return max(1, (TOKENS_ON_CPU if device.type == "cpu" else TOKENS_ON_GPU) // window)


def artefact_of(path: Path) -> Path:
    """Return the artefact's folder of a run, or the path itself where it is no run.

    Raises
    ------
    InputError
        The run isn't trained yet.
    """
    run = RunFolder(path)
    if run.config.exists() and not run.complete:
        raise InputError(f"{path} holds no trained model yet: repeat its train command with --out {path} to finish it")
    return run.artefact if run.config.exists() else path


def load_model(
    path: Path, *, device: torch.device, check: Callable[[Mapping[str, Any]], object] = check_signature
) -> LoadedModel:
    """Read the model of a run folder or an artefact; `check` refuses the signature of another domain's.

    Raises
    ------
    InputError
        The run isn't trained yet, or the artefact is damaged or of another domain or alphabet.
    """
    loaded = from_pretrained(artefact_of(path), device=device)
    check(loaded.signature)
    return loaded


def load_classifier(
    path: Path, *, device: torch.device, check: Callable[[Mapping[str, Any]], object] = check_signature
) -> LoadedModel:
    """Read the classifier of a run folder or an artefact.

    Raises
    ------
    InputError
        As `load_model`; or it is no classifier.
    """
    loaded = load_model(path, device=device, check=check)
    classifier_of(loaded)
    return loaded


def next_token_model_of(loaded: LoadedModel) -> MambaLM:
    """Return the model of an artefact that says how likely each next token is.

    Raises
    ------
    InputError
        It is something else, or was trained on hidden tokens and says nothing of the next one.
    """
    if not isinstance(loaded.model, MambaLM):
        raise InputError(
            f"the artefact is a {type(loaded.model).__name__}; this command needs a language model (MambaLM), such as "
            "`pretrain` makes"
        )
    if loaded.signature.get("objective", "next-token") != "next-token":
        raise InputError(
            f"the artefact's objective is {loaded.signature['objective']!r}: it was asked hidden tokens and says "
            "nothing of the next one; this command needs one that was trained with objective next-token"
        )
    return loaded.model


def classifier_of(loaded: LoadedModel) -> SequenceClassifier:
    """Return the model of an artefact that is a classifier.

    Raises
    ------
    InputError
        It is something else.
    """
    if isinstance(loaded.model, SequenceClassifier):
        return loaded.model
    name, domain = type(loaded.model).__name__, loaded.signature.get("domain")
    if domain != "genomics":
        serves = "generate, evaluate and embed" if isinstance(loaded.model, MambaLM) else "evaluate and embed"
    elif loaded.signature.get("objective", "next-token") == "next-token":
        serves = "likelihood, score, stream, explain, generate and embed"
    else:
        serves = "embed"
    if isinstance(loaded.model, MambaLM | PatchReconstructor):
        raise InputError(
            f"the artefact is a {name}, which `pretrain` makes and knows no classes; this command needs a classifier: "
            f"`seqdomains {domain} finetune MODEL --data LABELLED --out RUN` trains one on it; as it is it "
            f"serves {serves}"
        )
    raise InputError(f"the artefact is a {name}; this command needs a SequenceClassifier, such as `train` makes")


def asked_of(model: nn.Module, *, strands: Strands) -> tuple[nn.Module, tuple[str, ...]]:
    """Return a classifier as it is asked of one strand or both, and what to say of that beside a result.

    Examples
    --------
    >>> asked_of(nn.Identity(), strands="both")[1]
    ('Probabilities are the mean of both strands.',)
    """
    if strands == "forward":
        return model, ()
    return MeanOfStrands(model, complement=COMPLEMENT.tolist()), ("Probabilities are the mean of both strands.",)
