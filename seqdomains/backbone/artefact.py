"""The folder that people share: `model.safetensors` beside `config.json`, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from seqdomains.backbone.config import MambaConfig
from seqdomains.backbone.frame_head import FrameClassifier
from seqdomains.backbone.heads import Artefact, MambaLM, SequenceClassifier, SequenceTagger, check_classes
from seqdomains.backbone.parameters import adopt, block_shapes, check_finite, check_shapes
from seqdomains.backbone.pooling import Pooling
from seqdomains.backbone.reconstruction import PatchReconstructor
from seqdomains.errors import InputError
from seqdomains.files import atomic_folder, parse_json, read_bounded, sha256

FORMAT_VERSION: Final = 1
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
MOST_BLOCKS_UNSEEN: Final = 1000
LARGEST_CONFIG: Final = 4 << 20  # bytes
LARGEST_HEADER: Final = 2 << 20  # bytes; 1,400 blocks
ADVICE = "The file is damaged or was edited: copy or export the artefact again."


class ArtefactConfig(BaseModel):
    """What `config.json` says of any model."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: Literal[1] = FORMAT_VERSION
    architecture: str
    model: MambaConfig
    signature: dict[str, JsonValue]
    # Of the weights' file; a config that was written by hand may leave it out.
    weights_sha256: str | None = None


class LanguageModelConfig(ArtefactConfig):
    """What it says of a `MambaLM`."""

    architecture: Literal["MambaLM"] = "MambaLM"

    def build(self, config: MambaConfig) -> MambaLM:
        """Return a model of these sizes, its weights not yet those of the artefact."""
        return MambaLM(config)


class ClassesConfig(ArtefactConfig):
    """What it says of any model with classes."""

    classes: tuple[str, ...]

    @field_validator("classes")
    @classmethod
    def _name_each_once(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        check_classes(classes)
        return classes


class ClassifierConfig(ClassesConfig):
    """What it says of a `SequenceClassifier`."""

    architecture: Literal["SequenceClassifier"] = "SequenceClassifier"
    pooling: Pooling

    def build(self, config: MambaConfig) -> SequenceClassifier:
        """Return a model of these sizes, its weights not yet those of the artefact."""
        return SequenceClassifier(config, classes=self.classes, pooling=self.pooling)


class ReconstructorConfig(ArtefactConfig):
    """What it says of a `PatchReconstructor`."""

    architecture: Literal["PatchReconstructor"] = "PatchReconstructor"

    @field_validator("model")
    @classmethod
    def _reads_real_numbers(cls, model: MambaConfig) -> MambaConfig:
        if model.features is None:
            raise ValueError("features is null, and what is reconstructed are real numbers: expected a number")
        return model

    def build(self, config: MambaConfig) -> PatchReconstructor:
        """Return a model of these sizes, its weights not yet those of the artefact."""
        return PatchReconstructor(config)


class TaggerConfig(ClassesConfig):
    """What it says of a `SequenceTagger`."""

    architecture: Literal["SequenceTagger"] = "SequenceTagger"
    pooling: Pooling

    def build(self, config: MambaConfig) -> SequenceTagger:
        """Return a model of these sizes, its weights not yet those of the artefact."""
        return SequenceTagger(config, classes=self.classes, pooling=self.pooling)


class FramesConfig(ClassesConfig):
    """What it says of a `FrameClassifier`."""

    architecture: Literal["FrameClassifier"] = "FrameClassifier"

    def build(self, config: MambaConfig) -> FrameClassifier:
        """Return a model of these sizes, its weights not yet those of the artefact."""
        return FrameClassifier(config, classes=self.classes)


Described = LanguageModelConfig | ClassifierConfig | TaggerConfig | FramesConfig | ReconstructorConfig
READER: TypeAdapter[Described] = TypeAdapter(Annotated[Described, Field(discriminator="architecture")])


@dataclass(frozen=True)
class LoadedModel:
    """A model read from an artefact.

    Parameters
    ----------
    model : MambaLM, SequenceClassifier, FrameClassifier or PatchReconstructor
        In evaluation mode.
    signature : dict
        Facts of the data that it was trained on (domain, alphabet, unit); its input must match them.
    config : dict
        All of `config.json`.
    """

    model: MambaLM | SequenceClassifier | FrameClassifier | PatchReconstructor
    signature: dict[str, Any]
    config: dict[str, Any]


def save_pretrained(model: Artefact, folder: str | Path, *, signature: Mapping[str, Any]) -> None:
    """Write a model as a folder of `model.safetensors` and `config.json`, whole or not at all.

    Weights are written in fp32; tied ones once. The same model always gives the same bytes. An existing folder of that
    name is replaced.

    Parameters
    ----------
    model : MambaLM, SequenceClassifier, FrameClassifier or PatchReconstructor
        On any device.
    folder : str or Path
        The artefact's folder.
    signature : mapping
        JSON-ready facts of the training data that an input must match, such as the alphabet.

    Raises
    ------
    InputError
        If a weight is not finite: nobody could read the artefact back.
    ValueError
        If `signature` is not JSON-ready.
    TypeError
        If `model` is of another class.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "model"
    >>> model = MambaLM(MambaConfig(d_model=16, n_layer=1))
    >>> save_pretrained(model, folder, signature={"domain": "genomics"})
    >>> sorted(path.name for path in folder.iterdir()), from_pretrained(folder).signature
    (['config.json', 'model.safetensors'], {'domain': 'genomics'})
    """
    folder = Path(folder)
    content = _describe(model, signature)
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[name] = parameter.detach().to("cpu", torch.float32).contiguous()
        check_finite(name, tensors[name], source=str(folder), advice="The model was not saved.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder) as partial:
        # One metadata entry only: safetensors writes several in no fixed order.
        save_file(tensors, partial / WEIGHTS, metadata={"format": "pt"})
        written = content.model_copy(update={"weights_sha256": sha256(partial / WEIGHTS)})
        text = json.dumps(written.model_dump(mode="json"), indent=2, allow_nan=False) + "\n"
        (partial / CONFIG).write_text(text, encoding="utf-8")
        # safetensors makes its files readable by their owner alone; an artefact is to be shared as the umask says.
        (partial / WEIGHTS).chmod((partial / CONFIG).stat().st_mode)


def from_pretrained(folder: str | Path, *, device: str | torch.device = "cpu") -> LoadedModel:
    """Read an artefact, refusing anything that is not exactly one.

    Parameters
    ----------
    folder : str or Path
        A folder that `save_pretrained` wrote.
    device : str or torch.device
        Where the model goes.

    Returns
    -------
    LoadedModel
        The model in evaluation mode, with its signature and configuration.

    Raises
    ------
    InputError
        If a file is missing, unreadable or truncated, a key or a tensor is missing, unknown, of another shape or type,
        a weight is not finite, or the weights are not those that the configuration was written for. The message names
        the file, what was found, what was expected and what to do.
    """
    folder = Path(folder)
    content = _read_config(folder)
    with open_weights(folder / WEIGHTS) as handle:
        count = len(handle.keys())
    # Naming 10^9 blocks would take all memory before their absence is noticed.
    if content.model.blocks > max(count, MOST_BLOCKS_UNSEEN):
        raise InputError(
            f"{folder / CONFIG}: model.n_layer is {content.model.n_layer}, {content.model.blocks} blocks in all, "
            f"{WEIGHTS} has {count} tensors. {ADVICE}"
        )
    try:
        expected = block_shapes(content.build, content.model)
    except (RuntimeError, TypeError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder / CONFIG}: no model of these sizes can be built ({reason}). {ADVICE}") from error
    tensors = read_weights(folder / WEIGHTS, expected)
    if content.weights_sha256 is not None and (found := sha256(folder / WEIGHTS)) != content.weights_sha256:
        raise InputError(
            f"{folder / WEIGHTS}: other bytes than {CONFIG} was written for (SHA-256 {found[:12]}..., expected "
            f"{content.weights_sha256[:12]}...). {ADVICE}"
        )
    with torch.device("meta"):
        model = content.build(content.model)
    adopt(model, tensors)
    return LoadedModel(model.to(device).eval(), dict(content.signature), content.model_dump(mode="json"))


def _describe(model: Artefact, signature: Mapping[str, Any]) -> Described:
    if isinstance(model, MambaLM):
        return LanguageModelConfig(model=model.config, signature=dict(signature))
    if isinstance(model, SequenceClassifier):
        kind = TaggerConfig if isinstance(model, SequenceTagger) else ClassifierConfig
        return kind(model=model.config, classes=model.classes, pooling=model.pooling, signature=dict(signature))
    if isinstance(model, FrameClassifier):
        return FramesConfig(model=model.config, classes=model.classes, signature=dict(signature))
    if isinstance(model, PatchReconstructor):
        return ReconstructorConfig(model=model.config, signature=dict(signature))
    raise TypeError(
        f"{type(model).__name__} is no artefact: expected a MambaLM, SequenceClassifier, FrameClassifier or "
        "PatchReconstructor"
    )


def read_weights(path: Path, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Read a safetensors file that must hold exactly the `expected` fp32 tensors, all finite.

    Names, shapes and types are compared in the header before any tensor is read.

    Raises
    ------
    InputError
        If it does not.
    """
    with open_weights(path) as handle:
        slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118 - not a mapping
        found = {name: tuple(part.get_shape()) for name, part in slices.items()}
        check_shapes(expected, found, source=str(path), advice=ADVICE)
        for name, part in slices.items():
            if part.get_dtype() != "F32":
                raise InputError(f"{path}: tensor {name} is of type {part.get_dtype()}, expected F32. {ADVICE}")
        # A clone each: safetensors maps the file, so that whoever overwrites it would change the model.
        tensors = {name: handle.get_tensor(name).clone() for name in expected}
    for name, values in tensors.items():
        check_finite(name, values, source=str(path), advice=ADVICE)
    return tensors


def open_weights(path: Path) -> Any:
    """Open a safetensors file for reading.

    Raises
    ------
    InputError
        If it is missing, truncated, too long or no safetensors file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the weights of an artefact. Export or copy the folder again.")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if LARGEST_HEADER < length < size:
            raise InputError(f"{path}: a header of {length} bytes, expected at most {LARGEST_HEADER}. {ADVICE}")
        return safe_open(path, framework="pt")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise InputError(f"{path}: {size} bytes that are no whole safetensors file ({error}). {ADVICE}") from error


def _read_config(folder: Path) -> Described:
    path = folder / CONFIG
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected an artefact, a folder with {CONFIG} and {WEIGHTS}")
    content = read_json(path)
    if content.get("model_type") == "mamba":
        raise InputError(
            f"{path}: this is a transformers checkpoint; convert it with seqdomains.backbone.load_official"
        )
    version = content.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise InputError(
            f"{path}: format_version is {json.dumps(version)}, expected {FORMAT_VERSION}; "
            "read it with the version of seqdomains that wrote it, or export it again"
        )
    try:
        return READER.validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc'])) or 'content'}: {item['msg']}" for item in error.errors()]
        raise InputError(f"{path}: {'; '.join(problems)}. {ADVICE}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that must hold one JSON object.

    Raises
    ------
    InputError
        If it is missing or holds something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the configuration of an artefact. Export or copy it again.")
    try:
        content = parse_json(read_bounded(path, LARGEST_CONFIG))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}). {ADVICE}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a JSON {type(content).__name__}, expected an object. {ADVICE}")
    return content
