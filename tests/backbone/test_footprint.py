"""The estimate of a training step's memory, held against what autograd keeps and what a GPU has at its peak."""

from __future__ import annotations

import pytest
import torch

from seqdomains.backbone import MambaConfig, SequenceClassifier
from seqdomains.backbone.footprint import footprint
from seqdomains.backbone.sequence_parallel import SequenceShard


class Echo(SequenceShard):
    """The first of two ranks, to which the other tells what it has told itself."""

    def gathered(self, tensor):
        return torch.stack([tensor] * self.size)

    def total(self, tensor):
        return tensor * self.size


ECHO = Echo(None, 0, 2)


def model_of(width, blocks, **options):
    return SequenceClassifier(MambaConfig(d_model=width, n_layer=blocks, **options), classes=("a", "b"))


def kept_by_autograd(model, tokens, *, bf16, recompute, shard=None):
    """Return the bytes of the storages that a forward pass saves for the backward, without the weights."""
    weights = {one.untyped_storage().data_ptr() for one in model.parameters()}
    found, alive = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # a freed storage's address may be another one's
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bf16),
    ):
        model(tokens, recompute=recompute, shard=shard)
    return sum(found.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("width", "blocks"), [(64, 4), (128, 3), (96, 6)])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bidirectional": True},
        {"complement": tuple(range(15, -1, -1))},
        {"states": "complex"},
        {"time_invariant": "all"},
        {"pool": (4, 4), "pool_expand": 1, "states": "complex", "time_invariant": "outer"},
    ],
    ids=["causal", "bidirectional", "both strands", "complex", "constant", "stages"],
)
def test_what_is_kept_is_what_autograd_keeps(precision, width, blocks, recompute, options):
    model, tokens = model_of(width, blocks, **options), torch.zeros(2, 1500, dtype=torch.uint8)
    kept = kept_by_autograd(model, tokens, bf16=precision == "bf16", recompute=recompute)
    found = footprint(model.config, parameters=0, tokens=3000, precision=precision, device="cpu", recompute=recompute)
    assert found.kept == pytest.approx(kept, rel=0.15)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_rank_that_shares_a_sequence_keeps_its_part_once(recompute):
    model, tokens = model_of(64, 4), torch.zeros(2, 3000, dtype=torch.uint8)
    kept = kept_by_autograd(model, tokens, bf16=False, recompute=recompute, shard=ECHO)
    options = {"tokens": 3000, "precision": "fp32", "device": "cpu", "recompute": recompute, "shared": True}
    assert footprint(model.config, parameters=0, **options).kept == pytest.approx(kept, rel=0.15)


def test_shared_scratch_on_a_gpu_is_whole():
    config = MambaConfig(d_model=256, n_layer=1)

    def working(**options):
        return footprint(config, parameters=0, tokens=1 << 20, precision="bf16", **options).working

    assert working(shared=True) - working() == (1 << 20) * (4 * 16 * (32 + 16) - 512 * 2 - 256)
    assert working(shared=True, device="cpu") == working(device="cpu")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("width", "blocks", "length", "chunk", "recompute", "shared"),
    [
        (128, 12, 1 << 18, None, False, False),
        (128, 12, 1 << 20, 1 << 17, False, False),
        (768, 6, 1 << 16, None, False, False),
        (128, 12, 1 << 20, 1 << 18, True, False),
        (768, 24, 1 << 16, None, True, False),
        (256, 12, 1 << 20, 1 << 19, True, True),
        (256, 12, 1 << 18, None, False, True),
    ],
)
def test_the_peak_of_a_gpu_is_within_15_percent(width, blocks, length, chunk, recompute, shared):
    model = model_of(width, blocks).cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.zeros(1, length, dtype=torch.uint8, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            shard = ECHO if shared else None
            loss = model(tokens, time_chunk=chunk, recompute=recompute, shard=shard).float().logsumexp(1).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    parameters = sum(one.numel() for one in model.parameters())
    at_once = (chunk or length) // (2 if shared else 1)
    options = {"tokens": at_once, "precision": "bf16", "recompute": recompute, "shared": shared}
    found = footprint(model.config, parameters=parameters, **options)
    assert found.total == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.15)
