"""What the audio commands do: resolve the configuration, build data and model, hand them to a pipeline."""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seqdomains.audio.clip_task import ClipTask
from seqdomains.audio.data_config import ClipData
from seqdomains.audio.files import is_sound_file
from seqdomains.audio.frame_task import FrameTask
from seqdomains.audio.front_end import SoundInput, input_of
from seqdomains.audio.synthesis import SynthesisConfig, synthesize
from seqdomains.backbone import FrameClassifier, MambaLM, PatchReconstructor
from seqdomains.backbone.rate import rescale_steps
from seqdomains.cli.batch import Asked, print_last, run_batch_command
from seqdomains.cli.batch_plan import BatchOptions
from seqdomains.cli.config import Resolved, check_preset, resolve
from seqdomains.cli.finetuning import Origin
from seqdomains.cli.given_data import GivenData, given_options
from seqdomains.cli.models import choose_device, load_model
from seqdomains.cli.sound_config import SoundRunConfig
from seqdomains.cli.sound_data import check_scored, or_synthesized, refuse_without_data
from seqdomains.cli.sound_pretraining import score_pretrained
from seqdomains.cli.sound_tasks import Judge, Task, judge_of, new_model, objective_of, score, settings_of, sound_as_text
from seqdomains.cli.training import made, print_estimate, print_estimate_of, run_training
from seqdomains.errors import MOST_PROBLEMS, ConfigError, InputError
from seqdomains.files import output_file, parse_json
from seqdomains.pipelines.batch.folder import BatchFolder
from seqdomains.pipelines.batch.merge import BatchOutcome
from seqdomains.pipelines.batch.run import NAMED
from seqdomains.pipelines.inputs import find_inputs
from seqdomains.pipelines.objectives import Frames, refuse_unfit
from seqdomains.pipelines.progress import duration, progress_display
from seqdomains.pipelines.ranks import own_device
from seqdomains.pipelines.run_folder import RunFolder
from seqdomains.pipelines.tables import check_name

logger = logging.getLogger(__name__)


def run_synthesize(out: Path, *, kind: str | None, preset: str | None, settings: Sequence[str]) -> None:
    """Write synthesized clips to a folder."""
    check_preset(preset, "audio train")
    given = {} if kind is None else {"data.synthesis.kind": (kind, "--kind")}
    config = resolve(SoundRunConfig, preset=preset, settings=settings, given=given).config.data.synthesis
    config = config or SynthesisConfig()
    with progress_display("synthesize", total=None) as show:
        synthesize(config, out, progress=lambda done, total: show(done, f"of {total} clips", False))
    logger.info("SYNTHESIZED %s in %s, listed in %s", config.kind, out, out / "manifest.jsonl")


def run_train(
    *,
    data: Sequence[Path],
    label_from: str | None,
    labels: Path | None,
    preset: str | None,
    settings: Sequence[str],
    out: Path | None,
    device: str | None,
    only_estimate: bool = False,
) -> None:
    """Train, evaluate, and print the result; go on with the run in `out` if there is one."""
    where = choose_device(own_device(device))
    preset = preset or ("digits" if data else "words")
    check_preset(preset, "audio train")
    resolved = resolve(SoundRunConfig, preset=preset, settings=settings, given=given_options(data, label_from, labels))
    config = resolved.config
    if config.data.frames:
        refuse_unfit(config.train, config.backbone(), objective=Frames())
    if only_estimate:
        window = config.input.positions(round(config.data.seconds * config.input.rate))
        if config.data.frames:
            model = FrameClassifier(config.backbone(), classes=(config.data.background, "others"))
            print_estimate_of(model, config, window=window, device=where, objective=Frames())
        else:
            print_estimate(config, window=window, classes=config.data.classes or None, device=where)
        return
    _train(resolved, partial(new_model, config=config), preset=preset, out=out, device=where)


def _train(
    resolved: Resolved[SoundRunConfig],
    make_model: Callable[[Task], Judge],
    *,
    preset: str,
    out: Path | None,
    device: torch.device,
) -> None:
    config = resolved.config
    run_training(
        config,
        resolved,
        preset=preset,
        out=out,
        device=device,
        make_task=lambda: _task(config.data, config.input),
        make_model=make_model,
        objective_of=objective_of,
        score=lambda model, task, run: score(model, task, config.evaluate, run, device=device),
        as_text=sound_as_text,
    )


def run_finetune(
    path: Path,
    *,
    data: Sequence[Path],
    label_from: str | None,
    labels: Path | None,
    head_only: bool,
    preset: str | None,
    settings: Sequence[str],
    out: Path | None,
    device: str | None,
) -> None:
    """Train a classifier on the backbone of a model; the rest is as `run_train` has it."""
    where = choose_device(own_device(device))
    check_preset(preset, "audio train")
    origin = Origin.of(path, head_only=head_only)
    loaded = load_model(origin.artefact, device=choose_device("cpu"), check=input_of)
    given = given_options(data, label_from, labels)
    # What the model is and reads is not the user's to choose any more.
    sizes = loaded.model.config.model_dump(exclude={"features"})
    given |= {f"model.{key}": (value, "the artefact") for key, value in sizes.items()}
    read = input_of(loaded.signature).model_dump()
    given |= {f"input.{key}": (value, "the artefact") for key, value in read.items()}
    given["finetune"] = (origin.model_dump(mode="json"), "the artefact")
    fixed = [setting.partition("=")[0] for setting in settings]
    if wrong := [key for key in fixed if key.partition(".")[0] in ("model", "input") and key != "model.pooling"]:
        raise ConfigError([f"--set {key}: {key} is that of the model, which is fine-tuned" for key in wrong])
    resolved = resolve(SoundRunConfig, preset=preset, settings=settings, given=given)
    origin.check(resolved.config.train)

    def make_model(task: Task) -> Judge:
        return origin.begun(new_model(task, resolved.config), loaded)

    _train(resolved, make_model, preset=preset or "finetune", out=out, device=where)


def run_evaluate(
    path: Path,
    *,
    data: Sequence[Path],
    label_from: str | None,
    labels: Path | None,
    rate: int | None,
    settings: Sequence[str],
    out: Path | None,
    device: str | None,
) -> None:
    """Score a run on its held-out clips, or a model on other labelled clips, and print the result."""
    where = choose_device(device)
    loaded = load_model(path, device=where, check=input_of)
    if isinstance(loaded.model, MambaLM | PatchReconstructor):
        score_pretrained(
            path,
            loaded,
            loaded.model,
            data=data,
            label_from=label_from,
            labels=labels,
            rate=rate,
            settings=settings,
            out=out,
            device=where,
        )
        return
    model = judge_of(loaded)
    trained = input_of(loaded.signature)
    read = trained if rate is None else _at_rate(trained, rate)
    rescale_steps(loaded.model, trained.rate / read.rate)
    run = RunFolder(path)
    if not data:
        refuse_without_data(path, out=out, label_from=label_from, labels=labels, rate=rate, set=settings)
        run.read_config()
        config = resolve(SoundRunConfig, preset=str(run.config)).config
        task = _task(config.data, config.input)
        result = score(model, task, config.evaluate, run, device=where)
    else:
        given = given_options(data, label_from, labels) | {"data.split": ("none", "the command")}
        given |= {key: (value, "the model") for key, value in settings_of(loaded).items()}
        check_scored(settings, out)
        config = resolve(SoundRunConfig, settings=settings, given=given).config
        task = FrameTask(config.data, read) if config.data.frames else ClipTask(config.data, read, least_classes=1)
        notes = [note for note in task.notes() if note not in task.split.notes]
        scored = f"Scored on {', '.join(str(one) for one in data)}."
        if rate is not None:
            notes.append(f"Read at {rate} Hz with steps {trained.rate / rate:g} times as long as at {trained.rate} Hz.")
        known = GivenData(task, classes=model.classes, notes=(scored, *notes))
        target = RunFolder(made(out)) if out is not None else None
        result = score(model, known, config.evaluate, target, device=where)
    sys.stdout.write(sound_as_text(result))


def run_batch(
    asked: Asked,
    path: Path,
    given: Sequence[str],
    *,
    from_file: Path | None,
    window: float | None,
    stride: float | None,
    options: BatchOptions,
    output: str | None = None,
) -> bool:
    """Do a batch over sound files, or what is left of it; returns whether anything was skipped.

    Without a folder of its own, which `output` stands for, the table alone is kept.
    """
    if not given and from_file is None:
        raise ConfigError("no input: give sound files, folders or patterns, or a list of them with --from-file")
    paths = find_inputs(given, listed_in=from_file, wanted=is_sound_file, kinds="sound")
    if "-" in paths:
        raise ConfigError("-: sound is read from files, whose headers say how much there is")
    if output not in (None, "-") and Path(output).exists() and any(Path(output).samefile(one) for one in _there(paths)):
        raise ConfigError(f"-o {output}: is also an input, which would be lost; choose another file")
    if output is not None:
        check_name(output, suffixes=(".tsv",))
    loaded = load_model(path, device=choose_device("cpu"), check=input_of)
    sound = input_of(loaded.signature)
    in_time = asked.verb == "predict" and isinstance(loaded.model, FrameClassifier)
    if asked.rows == "frames" and not in_time:
        raise ConfigError("--frames: a row for each frame is what a model of frames says; this one judges whole sounds")
    if in_time and window is not None:
        raise ConfigError("--window: a model of frames reads each file as a whole and says when; leave it out")
    asked = Asked(
        asked.verb,
        rows=(asked.rows or "segments") if in_time else None,
        window=_positions(window, sound, "--window"),
        stride=_positions(stride, sound, "--stride"),
        whole=window is None,
        pooling=asked.pooling,
        layer=asked.layer,
    )
    if stride is not None and window is None:
        raise ConfigError("--stride: goes with --window; without it each file is taken whole")
    own = {"input": sound.model_dump(mode="json"), "per_second": sound.per_second}
    own |= {"lead": sound.lead} if in_time else {}
    outcome = run_batch_command("audio", asked, path, paths, own=own, options=options)
    if isinstance(outcome, BatchOutcome):
        if outcome.blank:
            logger.warning(
                "%d windows or files hold one value throughout: what is said of them means nothing", outcome.blank
            )
        _tell_speed(options.out, sound)
        if output is None:
            print_last(f"{outcome.table}: {outcome.rows} rows")
        else:
            _keep(outcome.table, output)
    return bool(outcome.skipped)


def run_predict_alone(
    path: Path,
    given: Sequence[str],
    *,
    from_file: Path | None,
    window: float | None,
    stride: float | None,
    output: str,
    device: str | None,
    frames: bool = False,
) -> bool:
    """Classify sound files into one table, in a folder that is removed; returns whether anything was skipped."""
    with tempfile.TemporaryDirectory(prefix="seqdomains-") as folder:
        batch = BatchFolder(Path(folder) / "batch")
        options = BatchOptions(out=batch.path, form="tsv", device=device)
        asked = Asked("predict", rows="frames" if frames else None)
        ask = partial(run_batch, asked, path, given, from_file=from_file, window=window, stride=stride)
        try:
            skipped = ask(options=options, output=output)
        except InputError as error:
            # What the batch says of its folder is of no use when that is gone.
            if reasons := _reasons(batch)[:MOST_PROBLEMS]:
                text = "\n".join(reasons) if len(reasons) == 1 else "no input could be read:\n" + "\n".join(reasons)
                raise InputError(text) from error
            raise
        for reason in _reasons(batch)[NAMED:]:
            logger.warning("skipped: %s", reason)
        return skipped


def _reasons(batch: BatchFolder) -> list[str]:
    """Return why inputs of a batch were left out."""
    if not batch.errors.exists():
        return []
    return [str(parse_json(line)["reason"]) for line in batch.errors.read_bytes().splitlines()]


def _at_rate(given: SoundInput, rate: int) -> SoundInput:
    """Return the input at another rate, where a position is one sample."""
    if given.codec == "log-mel" or given.patch != 1:
        raise ConfigError(
            f"--rate: needs a model that reads sample by sample; this one reads {given.codec} in steps of {given.patch}"
        )
    if not 100 <= rate <= 1_000_000:
        raise ConfigError(f"--rate {rate}: expected 100 to 1,000,000 Hz")
    return given.model_copy(update={"rate": rate})


def _task(data: ClipData, given: SoundInput) -> Task:
    data, simulated = or_synthesized(data)
    kind = FrameTask if data.frames else ClipTask
    return kind(data, given, simulated=simulated)


def _positions(seconds: float | None, given: SoundInput, option: str) -> int | None:
    if seconds is None:
        return None
    if not 0 < seconds < 1e6:
        raise ConfigError(f"{option} {seconds:g}: expected seconds, above 0")
    return max(1, round(seconds * given.per_second))


def _tell_speed(out: Path, given: SoundInput) -> None:
    """Log how long computing took beside how long the sound is."""
    session: Mapping[str, Any] = parse_json(BatchFolder(out).run.read_bytes())["last_session"]
    heard = session["tokens"] / given.per_second
    if heard:
        taken = session["seconds"]
        logger.info("%s of sound in %s: RTF %.4f", duration(heard), duration(taken), taken / heard)


def _there(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if Path(path).exists()]


def _keep(table: Path, output: str) -> None:
    if output == "-":
        print_last(table.read_text(encoding="utf-8").removesuffix("\n"))
        return
    try:
        with output_file(Path(output)) as partial_file:
            shutil.copyfile(table, partial_file)
    except OSError as error:
        raise InputError(f"cannot write {output}: {error.strerror or error}; choose another -o") from error
