"""What the genomics commands do: resolve the configuration, build data and model, hand them to a pipeline."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqdomains.backbone import MambaLM
from seqdomains.cli.assemblies import real_assemblies
from seqdomains.cli.batch import Asked, print_last, run_batch_command
from seqdomains.cli.batch_plan import BatchOptions, hash_of
from seqdomains.cli.config import check_preset, resolve
from seqdomains.cli.given_data import GivenData, given_options
from seqdomains.cli.models import (
    asked_of,
    choose_device,
    classifier_of,
    load_classifier,
    load_model,
    next_token_model_of,
    reads_whole_records,
    trained_window,
    windows_at_once,
)
from seqdomains.cli.run_config import PredictConfig, RunConfig
from seqdomains.cli.simulated import refuse_short_genomes, with_genomes
from seqdomains.cli.summary import as_text
from seqdomains.cli.training import AsText, made, print_estimate, train_and_evaluate
from seqdomains.errors import ConfigError, InputError
from seqdomains.genomics.alphabet import COMPLEMENT, VOCAB_SIZE, GapPolicy, N
from seqdomains.genomics.data_config import SpeciesData
from seqdomains.genomics.fasta import STDIN, reads_once, source_name
from seqdomains.genomics.markov import BASES
from seqdomains.genomics.record_task import labelled_task, takes_whole_records
from seqdomains.genomics.records import is_sequence_file, stream_records
from seqdomains.genomics.simulate import SimulationConfig, simulate
from seqdomains.genomics.spans import mostly_unknown, plan_spans
from seqdomains.genomics.species import SPECIES_NAMES
from seqdomains.genomics.tables import is_table
from seqdomains.genomics.windows import read_bed
from seqdomains.pipelines import evaluate as evaluation
from seqdomains.pipelines import likelihood
from seqdomains.pipelines import predict as prediction
from seqdomains.pipelines import stream as streaming
from seqdomains.pipelines.batch.merge import BatchOutcome
from seqdomains.pipelines.inputs import find_inputs
from seqdomains.pipelines.progress import progress_display
from seqdomains.pipelines.ranks import own_device
from seqdomains.pipelines.run_folder import RunFolder, flatten
from seqdomains.pipelines.tables import STDOUT, check_name
from seqdomains.pipelines.tracks import is_bigwig, open_track
from seqdomains.task import Span

logger = logging.getLogger(__name__)

RECORDS_NAMED = 5


def run_simulate(out: Path, *, preset: str | None, settings: Sequence[str]) -> None:
    """Write simulated genomes to a folder."""
    check_preset(preset, "genomics train")
    config = resolve(RunConfig, preset=preset, settings=settings).config.data.simulation or SimulationConfig()
    with progress_display("simulate", total=len(config.chromosomes)) as show:
        simulate(config, out, progress=lambda done, total: show(done, "chromosomes", False))
    logger.info("SIMULATED genomes of %s in %s", ", ".join(config.species), out)


def run_train(
    *,
    great_apes: bool,
    data: Sequence[Path],
    label_from: str | None,
    labels: Path | None,
    preset: str | None,
    settings: Sequence[str],
    out: Path | None,
    device: str | None,
    only_estimate: bool = False,
) -> None:
    """Train, evaluate, and print the result; go on with the run in `out` if there is one.

    Each process that torchrun starts makes this call; the first one writes and prints.
    """
    where = choose_device(own_device(device))
    if preset is None:
        tables = bool(data) and all(map(is_table, data))
        preset = choose_preset(great_apes=great_apes, gpu=where.type == "cuda", tables=tables)
    check_preset(preset, "genomics train")
    given = given_options(data, label_from, labels)
    if great_apes and data:
        given["data.classes"] = (SPECIES_NAMES, "--species great-apes")
    resolved = resolve(RunConfig, preset=preset, settings=settings, given=given)
    if great_apes and (real := real_assemblies(resolved.sources)):
        given["data.paths"] = ([str(path) for path in real], "genomics fetch")
        given["data.classes"] = (SPECIES_NAMES, "--species great-apes")
        resolved = resolve(RunConfig, preset=preset, settings=settings, given=given)
    config = resolved.config
    if not config.data.paths and not great_apes:
        raise ConfigError(
            "nothing to train on: give --species great-apes (simulated unless --data names a folder of assemblies), "
            "--data FASTA with --label-from header:KEY or --labels TSV, or --data CSV with columns sequence and label"
        )
    if config.model.vocab_size != VOCAB_SIZE:
        raise ConfigError(f"model.vocab_size: DNA has {VOCAB_SIZE} codes; found {config.model.vocab_size}")
    refuse_short_genomes(config.data)
    if only_estimate:
        classes = config.data.classes or (SPECIES_NAMES if great_apes else None)
        print_estimate(config, window=config.data.window, classes=classes, device=where)
        return
    train_and_evaluate(
        config,
        resolved,
        preset=preset,
        out=out,
        device=where,
        make_task=lambda: labelled_task(with_genomes(config.data)),
        as_text=text_of(config.data),
        as_asked=partial(asked_of, strands=config.strands),
    )


def run_evaluate(
    path: Path,
    *,
    data: Sequence[Path],
    label_from: str | None,
    labels: Path | None,
    settings: Sequence[str],
    out: Path | None,
    device: str | None,
) -> None:
    """Score a run on its test windows, or a model on other labelled data, and print the result."""
    where = choose_device(device)
    loaded = load_classifier(path, device=where)
    run = RunFolder(path)
    if not data:
        if not run.config.exists():
            raise ConfigError(f"{path} is an artefact without test windows of its own: give --data with labels")
        if out is not None or label_from or labels:
            raise ConfigError("--out, --label-from and --labels go with --data; a run's own result stays in its folder")
        config = _read_run(run, settings)
        before, now = (flatten(one.model_dump(mode="json")) for one in (_read_run(run, ()), config))
        changed = {key: value for key, value in now.items() if before.get(key) != value}
        _refuse_other_sections(
            settings,
            ("evaluate", "strands"),
            reason="is part of the run, whose own windows are scored; give --data and --out",
        )
        task: Any = labelled_task(with_genomes(config.data))
        model, said = asked_of(loaded.model, strands=config.strands)
        result = evaluation.evaluate(model, task, config.evaluate, run, device=where, notes=said, changed=changed)
    else:
        base = _read_run(run, ()).data if run.config.exists() else SpeciesData(window=trained_window(loaded))
        given = given_options(data, label_from, labels)
        unit = "record" if reads_whole_records(loaded) else "auto"
        own = {"window": base.window, "max_n": base.max_n, "split": "none", "unit": unit}
        given |= {f"data.{key}": (value, "the model") for key, value in own.items()}
        config = resolve(RunConfig, settings=settings, given=given).config
        _refuse_other_sections(settings, ("data", "evaluate", "strands"), reason="changes nothing of a trained model")
        if out is not None and RunFolder(out).config.exists():
            raise ConfigError(f"--out {out}: is a run folder, which keeps its own result; choose another folder")
        given_task = labelled_task(config.data, least_classes=1)
        files = ", ".join(dict.fromkeys(path.name for path in given_task.corpus.files))
        notes = (note for note in given_task.notes() if note not in given_task.split.notes)
        known = classifier_of(loaded).classes
        task = GivenData(given_task, classes=known, notes=(f"Scored on {files}.", *notes))
        target = RunFolder(made(out)) if out is not None else None
        model, said = asked_of(loaded.model, strands=config.strands)
        result = evaluation.evaluate(model, task, config.evaluate, target, device=where, notes=said)
    sys.stdout.write(text_of(config.data)(result))


def run_predict(
    path: Path,
    given: Sequence[str],
    *,
    from_file: Path | None,
    window: int | None,
    stride: int | None,
    regions: Path | None,
    output: str,
    settings: Sequence[str],
    device: str | None,
) -> bool:
    """Classify the windows of files; returns whether any record or file was skipped."""
    config = resolve(PredictConfig, settings=settings).config
    policy = config.data.gap_policy
    fasta = find_sequences(given, from_file)
    refuse_clashes(fasta, regions, output)
    check_name(output)
    where = choose_device(device)
    loaded = load_classifier(path, device=where)
    length = window or trained_window(loaded)
    intervals = read_bed(regions) if regions else None
    short = reads_whole_records(loaded)
    plan = plan_spans(fasta, window=length, stride=stride, regions=intervals, policy=policy, keep_short=short)
    for _, error in plan.failures:
        logger.warning("skipped: %s", error)
    blank = [0]
    outcome = prediction.predict(
        asked_of(loaded.model, strands=config.strands)[0],
        classifier_of(loaded).classes,
        ((file.source, _counting(file.spans(), blank)) for file in plan.files),
        output,
        batch_size=windows_at_once(where, length),
        device=where,
        total=plan.windows,
    )
    for record in plan.skipped[:RECORDS_NAMED]:
        logger.warning("skipped %s", record.reason)
    if len(plan.skipped) > RECORDS_NAMED:
        logger.warning("and %d more records shorter than the window", len(plan.skipped) - RECORDS_NAMED)
    if blank[0]:
        logger.warning(
            "%d windows are N or masked for more than half: their class means nothing, training leaves such out",
            blank[0],
        )
    return bool(plan.failures or plan.skipped or outcome.failures)


def run_stream(
    path: Path,
    given: Sequence[str],
    *,
    from_file: Path | None,
    every: int | None,
    output: str,
    settings: Sequence[str],
    device: str | None,
) -> bool:
    """Classify records as they are read; returns whether any file was skipped."""
    policy = _forward(settings, verb="stream").data.gap_policy
    fasta = find_sequences(given, from_file)
    refuse_clashes(fasta, None, output)
    where = choose_device(device)
    loaded = load_model(path, device=where)
    inputs = ((source_name(source), _pieces(source, policy)) for source in fasta)
    if isinstance(loaded.model, MambaLM):
        model = next_token_model_of(loaded)
        lengths = _lengths(fasta, policy) if is_bigwig(output) else None
        track = open_track(output, value=likelihood.VALUE, lengths=lengths)
        outcome = likelihood.stream_likelihood(
            model, inputs, track, every=every or 1, before=N, codes=BASES, device=where
        )
        return bool(outcome.failures)
    if is_bigwig(output):
        raise ConfigError(f"-o {output}: a classifier's rows are no track; bigWig holds a language model's likelihoods")
    classifier, step = classifier_of(loaded), every or trained_window(loaded)
    return bool(streaming.stream(classifier, inputs, output, every=step, device=where).failures)


def run_batch(
    asked: Asked,
    path: Path,
    given: Sequence[str],
    *,
    from_file: Path | None,
    regions: Path | None,
    settings: Sequence[str],
    options: BatchOptions,
) -> bool:
    """Do a batch over sequence files, or what is left of it; returns whether anything was skipped."""
    config = resolve(PredictConfig, settings=settings).config
    if asked.verb != "predict":
        config = _forward(settings, verb=asked.verb)
    policy = config.data.gap_policy
    fasta = find_sequences(given, from_file)
    if streams := [source for source in fasta if reads_once(source)]:
        raise ConfigError(
            f"{streams[0]}: a batch with --out reads its inputs more than once; give files, or leave --out"
        )
    own: dict[str, Any] = {"gap_policy": policy}
    if config.strands == "both":
        own["complement"] = COMPLEMENT.tolist()
    if asked.verb == "stream":
        own |= {"before": N, "codes": BASES}
    else:
        own["regions"] = None if regions is None else str(regions.absolute())
        own["regions_sha256"] = None if regions is None else hash_of(regions)
        if reads_whole_records(load_model(path, device=choose_device("cpu"))):
            own["keep_short"] = True
    outcome = run_batch_command("genomics", asked, path, fasta, own=own, options=options)
    if isinstance(outcome, BatchOutcome):
        if outcome.blank:
            logger.warning(
                "%d windows are N or masked for more than half: what is said of them means nothing", outcome.blank
            )
        print_last(f"{outcome.table}: {outcome.rows} rows")
    return bool(outcome.skipped)


def _forward(settings: Sequence[str], *, verb: str) -> PredictConfig:
    """Return what --set tells a command that reads one strand."""
    config = resolve(PredictConfig, settings=settings).config
    if config.strands != "forward":
        raise ConfigError(f"strands: {verb} reads the strand that is given; both are for predict, evaluate and explain")
    return config


def _lengths(fasta: Sequence[str], policy: GapPolicy) -> dict[str, int]:
    """Read all inputs for the lengths of their records, which bigWig needs before any value."""
    lengths: dict[str, int] = {}
    for source in fasta:
        if reads_once(source):
            raise ConfigError(f"{source_name(source)}: bigWig needs the lengths of records first; give files")
        for record in stream_records(source, policy=policy):
            if record.name in lengths:
                raise InputError(f"{source}: record {record.name!r} stands twice, and bigWig takes a name once")
            lengths[record.name] = sum(map(len, record.pieces))
    return lengths


def _pieces(source: str, policy: GapPolicy) -> Iterator[tuple[str, Iterator[NDArray[np.uint8]]]]:
    for record in stream_records(source, policy=policy):
        yield record.name, record.code_pieces()


def find_sequences(given: Sequence[str], from_file: Path | None) -> list[str]:
    """Return the sequence files that a command was given.

    Raises
    ------
    ConfigError
        It was given none.
    InputError
        As `find_inputs`.
    """
    if not given and from_file is None:
        raise ConfigError("no input: give FASTA files, folders or patterns, or a list of them with --from-file")
    return find_inputs(given, listed_in=from_file, wanted=is_sequence_file, kinds="FASTA or GenBank")


def _counting(spans: Iterable[Span], blank: list[int]) -> Iterator[Span]:
    """Pass spans on and count those that are mostly N or masked in `blank[0]`: a model is sure of those too."""
    for span in spans:
        blank[0] += int(mostly_unknown(span))
        yield span


def text_of(data: SpeciesData) -> AsText:
    """Return how a result on these data is written."""
    return partial(as_text, units="records", ranks=True) if takes_whole_records(data) else as_text


def choose_preset(*, great_apes: bool, gpu: bool, tables: bool = False) -> str:
    """Return the preset of a command that names none.

    Examples
    --------
    >>> choose_preset(great_apes=True, gpu=False), choose_preset(great_apes=False, gpu=False)
    ('laptop', 'barcode')
    """
    if not great_apes:
        return "sequences" if tables else "barcode"
    return "great-apes-gpu" if gpu else "laptop"


def _refuse_other_sections(settings: Sequence[str], sections: tuple[str, ...], *, reason: str) -> None:
    """Refuse a --set that would be read and change nothing, or change what a result is taken for."""
    keys = [setting.partition("=")[0] for setting in settings]
    if problems := [f"--set {key}: {key} {reason}" for key in keys if key.partition(".")[0] not in sections]:
        raise ConfigError(problems)


def refuse_clashes(fasta: Sequence[str], regions: Path | None, output: str) -> None:
    """Refuse an output that would replace an input, as `-o *.fa` does, and a stdin that would be read twice."""
    if list(fasta).count(STDIN) > 1:
        raise ConfigError("- stands twice: stdin can be read once")
    target = Path(output)
    if output == STDOUT or not target.is_file():
        return
    for source in (*fasta, *([regions] if regions else ())):
        if str(source) != STDIN and Path(source).exists() and target.samefile(source):
            raise ConfigError(f"-o {output}: is also an input, which would be lost; choose another file")


def _read_run(run: RunFolder, settings: Sequence[str]) -> RunConfig:
    run.read_config()
    try:
        resolve(RunConfig, preset=str(run.config))
    except ConfigError as error:
        raise InputError(
            f"{run.config} does not fit this version of seqdomains, or was edited ({'; '.join(error.problems)}): "
            "train again, or give the model folder in place of the run"
        ) from error
    return resolve(RunConfig, preset=str(run.config), settings=settings).config
