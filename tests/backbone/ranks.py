"""What a process of `test_sequence_parallel` does: its part of every case, compared with the whole sequence."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import torch
from torch import distributed as dist

from seqdomains.backbone import MambaConfig, MambaLM, SequenceClassifier
from seqdomains.backbone.sequence_parallel import SequenceShard

LENGTH = 101


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return [one.grad for one in model.parameters()]


def compare(model, loss_of, shard):
    """Return how far loss and gradients of all ranks together are from those of the whole sequence on one."""
    whole = loss_of(None)
    expected = gradients(model, whole)
    loss = loss_of(shard)
    # Each rank has the same loss: their objectives are added.
    found = [shard.total(gradient) for gradient in gradients(model, loss / shard.size)]
    worst = max(
        float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected, strict=True) if b.abs().max() > 0
    )
    return {"loss": abs(loss.item() - whole.item()) / abs(whole.item()), "gradients": worst}


def classifier_cases(shard):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(5, (2, LENGTH), generator=generator, dtype=torch.uint8)
    for pooling, lengths, chunk in product(("last", "mean", "both"), (None, [LENGTH, 40]), (None, 33)):
        model = SequenceClassifier(
            MambaConfig(d_model=16, n_layer=2), classes=("a", "b"), pooling=pooling,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

        def loss(shard, model=model, lengths=lengths, chunk=chunk):
            real = None if lengths is None else torch.tensor(lengths)
            logits = model(tokens, real, time_chunk=chunk, shard=shard)
            return torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]))

        yield f"{pooling}, lengths {lengths}, chunk {chunk}", compare(model, loss, shard)


def language_cases(shard):
    tokens = torch.randint(5, (2, LENGTH), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    cases = (
        (None, torch.float32, True, None),
        (None, torch.float32, True, [LENGTH, 40]),
        (29, torch.float32, False, [LENGTH, 40]),
        (29, torch.float64, True, None),
    )
    for chunk, dtype, tied, lengths in cases:
        config = MambaConfig(d_model=16, n_layer=2, tie_embeddings=tied)
        model = MambaLM(config, generator=torch.Generator().manual_seed(0)).to(dtype)

        def loss(shard, model=model, chunk=chunk, lengths=lengths):
            real = None if lengths is None else torch.tensor(lengths)
            return model.loss(tokens, lengths=real, ignored=4, time_chunk=chunk, shard=shard)

        yield f"language model, chunk {chunk}, {dtype}, tied {tied}, lengths {lengths}", compare(model, loss, shard)


def bfloat16_case(shard):
    tokens = torch.randint(5, (2, LENGTH), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    model = MambaLM(MambaConfig(d_model=16, n_layer=2), generator=torch.Generator().manual_seed(0))

    def loss(shard):
        with torch.autocast("cpu", torch.bfloat16, enabled=shard is not None):
            return model.loss(tokens, time_chunk=40, shard=shard)

    yield "bfloat16", compare(model, loss, shard)


def refusal(shard):
    model = MambaLM(MambaConfig(d_model=16, n_layer=1))
    try:
        # Some parts would be long enough, and their ranks must refuse too.
        model.loss(torch.zeros(1, 3 * shard.size, dtype=torch.uint8), shard=shard)
    except ValueError as error:
        return str(error)
    return ""


def main(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    shard = SequenceShard(None, rank, size)
    found = {name: one for cases in (classifier_cases, language_cases, bfloat16_case) for name, one in cases(shard)}
    found["refused"] = refusal(shard)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
