"""What a user may choose of the clips that a model learns from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from seqdomains.audio.synthesis import SynthesisConfig

Decibels = Annotated[float, Field(ge=-60, le=120)]


class ClipData(BaseModel):
    """Labelled sound and how windows are drawn from it.

    Parameters
    ----------
    seconds : float
        Length of a training window, s. A longer clip gives a part of it, at any sample; test clips are whole.
    shorter : {"pad", "skip"}
        What becomes of a training clip that is shorter: padding, which does not count, behind it, or no windows of it.
    paths : tuple of Path
        Folders with one folder per class, manifests (JSONL, CSV, TSV) or sound files; see `seqdomains.audio.clips`.
    label_from : str or None
        ``folder``, ``field:KEY``, or ``name:PATTERN`` such as ``name:{label}_{speaker}_{take}``.
    labels : Path or None
        A table ``file<TAB>label``.
    label_separator : str or None
        What stands between several labels of a clip in a manifest's text or a table; see `seqdomains.audio.clips`.
    tagging : bool or None
        Whether a clip may have several classes, each of which is then a yes or no of its own. None: where one has.
    frames : bool
        Whether each position has a class, from segments of time; see `seqdomains.audio.segments`. `labels` is then a
        table of them.
    activity : str or None
        Of frames: the one class that all segments are, such as speech.
    background : str
        Of frames: the class where no segment is.
    classes : tuple of str or None
        The classes and their order; None takes those that the data have.
    split : {"auto", "field", "values", "group", "clip", "none"}
        What the test clips are held out by; see `seqdomains.audio.splits.split_clips`. none: all are trained on and
        tested.
    group : str or None
        Clips with the same value of this field, such as a speaker, are never on both sides.
    held : mapping of str to tuple of str
        Fields and their values that are held out, such as ``{speaker: [jackson]}``; with it `split` is values.
    test_fraction : float
        Share of the groups or clips that is held out.
    seed : int
        Decides which are held out.
    balanced : bool
        Whether classes are drawn alike, or as often as they have clips.
    speed : float
        Training clips are played faster or slower by up to this share, as a tape is: 0.1 is 0.9 to 1.1.
    gain : float
        Training clips are made louder or softer by up to so many dB.
    time_mask : float
        Of log-mel spectra up to so many s are set to their mean in training.
    frequency_mask : int
        Likewise up to so many bands.
    noise : pair of float or None
        White noise is added to training windows at a signal-to-noise ratio drawn from this range, dB.
    mixup : float
        Share of the training windows that are mixed with another one, and their classes with its classes.
    mixup_alpha : float
        How much of each: a draw of Beta(alpha, alpha). Large: halves; below 1: next to all of one of the two.
    on_error : {"stop", "skip"}
        Whether a clip that cannot be read or decoded ends the run before it begins, or is left out and named beside the
        result.
    memory_mb : int
        Clips up to this size are held in memory as samples; more are read from disk again and again, after one pass
        that decodes them all.
    synthesis : SynthesisConfig or None
        What to synthesize where no data are given.

    Examples
    --------
    >>> ClipData(held={"speaker": ("jackson",)}).split
    'values'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    seconds: Annotated[float, Field(gt=0, le=86_400)] = 1.0
    shorter: Literal["pad", "skip"] = "pad"
    paths: tuple[Path, ...] = ()
    label_from: str | None = None
    labels: Path | None = None
    label_separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    tagging: bool | None = None
    frames: bool = False
    activity: Annotated[str, Field(min_length=1)] | None = None
    background: Annotated[str, Field(min_length=1)] = "background"
    classes: tuple[str, ...] | None = None
    split: Literal["auto", "field", "values", "group", "clip", "none"] = "auto"
    group: str | None = None
    held: dict[str, tuple[str, ...]] = {}
    test_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    seed: Annotated[int, Field(ge=0, lt=1 << 64)] = 0
    balanced: bool = True
    speed: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    gain: Annotated[float, Field(ge=0, le=40)] = 0.0
    time_mask: Annotated[float, Field(ge=0)] = 0.0
    frequency_mask: Annotated[int, Field(ge=0)] = 0
    noise: tuple[Decibels, Decibels] | None = None
    mixup: Annotated[float, Field(ge=0, le=1)] = 0.0
    mixup_alpha: Annotated[float, Field(gt=0, le=1000)] = 10.0
    on_error: Literal["stop", "skip"] = "stop"
    memory_mb: Annotated[int, Field(ge=0)] = 1024
    synthesis: SynthesisConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _values_are_a_split(cls, tree: object) -> object:
        if isinstance(tree, dict) and tree.get("held") and tree.get("split", "auto") == "auto":
            return {**tree, "split": "values"}
        return tree

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.split == "group" and self.group is None:
            raise ValueError("split is group but group is not set: name a field, such as group: speaker")
        if (self.split == "values") != bool(self.held):
            raise ValueError(f"split is {self.split} and held names {len(self.held)} fields: the two go together")
        if self.noise is not None and self.noise[0] > self.noise[1]:
            raise ValueError(f"noise: {self.noise[0]:g} dB is above {self.noise[1]:g} dB; swap them")
        if self.classes is not None and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a class is named twice")
        if self.frames and self.tagging:
            raise ValueError("frames and tagging: a frame has one class; choose one of the two")
        if self.activity is not None and not self.frames:
            raise ValueError(f"activity {self.activity!r}: is of frames; set frames: true beside it")
        if self.background in (self.activity, *(self.classes or ())) and self.frames:
            raise ValueError(f"background {self.background!r}: is the class without segments; name the others")
        return self
