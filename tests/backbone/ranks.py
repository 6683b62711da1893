"""What a process of `test_sequence_parallel` does: its part of every case, compared with the whole sequence."""

from __future__ import annotations

import json
import os
import sys
from itertools import product
from pathlib import Path

import torch
from torch import distributed as dist

from seqdomains.backbone import MambaConfig, MambaLM, SequenceClassifier
from seqdomains.backbone.sequence_parallel import SequenceShard

LENGTH = 101
# Where models and tokens are.
DEVICE = torch.device(os.environ.get("RANKS_DEVICE", "cpu"))
# The portable kernels, where they are asked for by name, compute in float32 alone.
WIDEST = torch.float32 if os.environ.get("SEQDOMAINS_KERNELS") == "triton" else torch.float64


class OnOneDevice(SequenceShard):
    """Ranks that share a GPU: gloo exchanges on the CPU, since no two processes of NCCL may be on one device."""

    def gathered(self, tensor):
        return super().gathered(tensor.cpu()).to(tensor.device)

    def total(self, tensor):
        return super().total(tensor.cpu()).to(tensor.device)


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return [one.grad for one in model.parameters() if one.requires_grad]


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
    tokens = torch.randint(5, (2, LENGTH), generator=generator, dtype=torch.uint8).to(DEVICE)
    ways = (("last", False), ("mean", False), ("both", False), ("both", True))
    for (pooling, recompute), lengths, chunk in product(ways, (None, [LENGTH, 40]), (None, 33)):
        model = SequenceClassifier(
            MambaConfig(d_model=16, n_layer=2), classes=("a", "b"), pooling=pooling,
            generator=torch.Generator().manual_seed(0),
        ).to(DEVICE)  # fmt: skip

        def loss(shard, model=model, lengths=lengths, chunk=chunk, recompute=recompute):
            real = None if lengths is None else torch.tensor(lengths)
            logits = model(tokens, real, time_chunk=chunk, shard=shard, recompute=recompute and shard is not None)
            return torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1], device=DEVICE))

        yield f"{pooling}, lengths {lengths}, chunk {chunk}, recompute {recompute}", compare(model, loss, shard)


def language_cases(shard):
    tokens = torch.randint(5, (2, LENGTH), generator=torch.Generator().manual_seed(2), dtype=torch.uint8).to(DEVICE)
    cases = (
        (None, torch.float32, True, None),
        (None, torch.float32, True, [LENGTH, 40]),
        (29, torch.float32, False, [LENGTH, 40]),
        (29, WIDEST, True, None),
    )
    for (chunk, dtype, tied, lengths), recompute in product(cases, (False, True)):
        config = MambaConfig(d_model=16, n_layer=2, tie_embeddings=tied, bias=not tied)
        model = MambaLM(config, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)

        def loss(shard, model=model, chunk=chunk, lengths=lengths, recompute=recompute):
            real = None if lengths is None else torch.tensor(lengths)
            options = {} if shard is None else {"shard": shard, "recompute": recompute}
            return model.loss(tokens, lengths=real, ignored=4, time_chunk=chunk, **options)

        name = f"language model, chunk {chunk}, {dtype}, tied {tied}, lengths {lengths}, recompute {recompute}"
        yield name, compare(model, loss, shard)


def bfloat16_cases(shard):
    tokens = torch.randint(5, (2, LENGTH), generator=torch.Generator().manual_seed(3), dtype=torch.uint8).to(DEVICE)
    model = MambaLM(MambaConfig(d_model=16, n_layer=2), generator=torch.Generator().manual_seed(0)).to(DEVICE)

    for recompute in (False, True):

        def loss(shard, recompute=recompute):
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=shard is not None):
                return model.loss(tokens, time_chunk=40, shard=shard, recompute=recompute)

        yield f"bfloat16, recompute {recompute}", compare(model, loss, shard)


def frozen_case(shard):
    """Frozen blocks below, of which no gradient is asked, and one that is trained."""
    tokens = torch.randint(5, (2, LENGTH), generator=torch.Generator().manual_seed(4), dtype=torch.uint8).to(DEVICE)
    config = MambaConfig(d_model=16, n_layer=3, tie_embeddings=False)
    model = MambaLM(config, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    model.backbone.embedding.requires_grad_(False)
    model.backbone.layers[0].requires_grad_(False)
    model.backbone.layers[1].mixer.requires_grad_(False)

    for recompute in (False, True):

        def loss(shard, recompute=recompute):
            return model.loss(tokens, time_chunk=40, shard=shard, recompute=recompute)

        yield f"frozen, recompute {recompute}", compare(model, loss, shard)


def refusal(shard):
    model = MambaLM(MambaConfig(d_model=16, n_layer=1)).to(DEVICE)
    try:
        # Some parts would be long enough, and their ranks must refuse too.
        model.loss(torch.zeros(1, 3 * shard.size, dtype=torch.uint8, device=DEVICE), shard=shard)
    except ValueError as error:
        return str(error)
    return ""


def main(rank, size, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    shard = (SequenceShard if DEVICE.type == "cpu" else OnOneDevice)(None, rank, size)
    every = (classifier_cases, language_cases, bfloat16_cases, frozen_case)
    found = {name: one for cases in every for name, one in cases(shard)}
    found["refused"] = refusal(shard)
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
