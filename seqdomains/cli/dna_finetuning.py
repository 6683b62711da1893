"""What `seqdomains genomics finetune` does: a new head on a trained backbone, and training on labelled DNA."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from seqdomains.cli.config import check_preset, read_preset, resolve
from seqdomains.cli.finetuning import Origin
from seqdomains.cli.given_data import given_options
from seqdomains.cli.models import asked_of, choose_device, load_model, trained_window
from seqdomains.cli.run_config import RunConfig
from seqdomains.cli.simulated import refuse_short_genomes, with_genomes
from seqdomains.cli.species import text_of
from seqdomains.cli.training import print_estimate, train_and_evaluate
from seqdomains.errors import ConfigError, InputError
from seqdomains.genomics.alphabet import VOCAB_SIZE
from seqdomains.genomics.record_task import labelled_task
from seqdomains.genomics.species import SPECIES_NAMES
from seqdomains.pipelines.ranks import own_device


def run_finetune(
    path: Path,
    *,
    great_apes: bool,
    data: Sequence[Path],
    test: Sequence[Path],
    label_from: str | None,
    labels: Path | None,
    sequence_column: str | None,
    head_only: bool,
    preset: str | None,
    settings: Sequence[str],
    out: Path | None,
    device: str | None,
    only_estimate: bool = False,
) -> None:
    """Train a classifier on the backbone of a model, evaluate, and print the result; go on with the run in `out`."""
    where = choose_device(own_device(device))
    check_preset(preset, "genomics train")
    origin = Origin.of(path, head_only=head_only)
    loaded = load_model(origin.artefact, device=choose_device("cpu"))
    if loaded.model.config.vocab_size != VOCAB_SIZE:
        raise InputError(
            f"{origin.artefact} knows {loaded.model.config.vocab_size} codes, and DNA has {VOCAB_SIZE}: use a model "
            "that was trained on DNA by this version"
        )
    given = given_options(data, label_from, labels)
    if test:
        given["data.test_paths"] = ([str(one.absolute()) for one in test], "--test")
    if sequence_column is not None:
        given["data.sequence_column"] = (sequence_column, "--sequence-column")
    if great_apes and data:
        given["data.classes"] = (SPECIES_NAMES, "--species great-apes")
    tree = read_preset(preset) if preset is not None else {}
    if "window" in loaded.signature and "window" not in (tree.get("data") or {}):
        given["data.window"] = (trained_window(loaded), "the artefact")
    # What the model is and reads is not the user's to choose any more.
    sizes = loaded.model.config.model_dump(exclude={"complement"})
    sizes["reverse_complement"] = "none" if loaded.model.config.complement is None else "equivariant"
    given |= {f"model.{key}": (value, "the artefact") for key, value in sizes.items()}
    given["finetune"] = (origin.model_dump(mode="json"), "the artefact")
    keys = [setting.partition("=")[0] for setting in settings]
    if wrong := [key for key in keys if key.partition(".")[0] == "model" and key != "model.pooling"]:
        raise ConfigError([f"--set {key}: {key} is that of the model, which is fine-tuned" for key in wrong])
    resolved = resolve(RunConfig, preset=preset, settings=settings, given=given)
    config = resolved.config
    origin.check(config.train)
    if not config.data.paths and not great_apes:
        raise ConfigError(
            "nothing to train on: give --data CSV with columns sequence and label, --data FASTA with --label-from "
            "header:KEY, file or folder, or with --labels TSV, or --species great-apes"
        )
    refuse_short_genomes(config.data)
    if only_estimate:
        classes = config.data.classes or (SPECIES_NAMES if great_apes else None)
        print_estimate(config, window=config.data.window, classes=classes, device=where)
        return
    train_and_evaluate(
        config,
        resolved,
        preset=preset or "finetune",
        out=out,
        device=where,
        make_task=lambda: labelled_task(with_genomes(config.data)),
        as_text=text_of(config.data),
        as_asked=partial(asked_of, strands=config.strands),
        make_model=partial(origin.classifier, loaded, pooling=config.pooling),
    )
