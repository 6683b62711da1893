"""From a model and its optimizer to named tensors and back: all that the next step depends on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from seqdomains.errors import InputError
from seqdomains.pipelines.checkpoint import Checkpoint

Tensors = dict[str, dict[str, Tensor]]


def capture(model: nn.Module, optimizer: torch.optim.Optimizer, *, device: torch.device) -> Tensors:
    """Name the tensors of a training run: weights, optimizer moments, random states.

    Parameters
    ----------
    model : Module
        Its parameters and persistent buffers, shared ones once.
    optimizer : Optimizer
        One whose state per parameter is tensors alone, such as AdamW.
    device : torch.device
        Whose random generator is kept, beside the CPU's.

    Returns
    -------
    dict
        Groups ``model``, ``optimizer`` (``exp_avg/<parameter>`` and so on) and ``random``.

    Examples
    --------
    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> optimizer.step()
    >>> sorted(capture(model, optimizer, device=torch.device("cpu"))["optimizer"])[:2]
    ['exp_avg/bias', 'exp_avg/weight']
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    moments = {
        f"{key}/{names[parameter]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }
    random = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(device)
    return {"model": _weights(model), "optimizer": moments, "random": random}


def restore(
    checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, *, device: torch.device
) -> None:
    """Put the tensors of a checkpoint where `capture` took them from.

    Parameters
    ----------
    checkpoint : Checkpoint
        What `capture` gave, read back.
    model, optimizer
        Of the same shapes as those captured.
    device : torch.device
        Whose random generator is set, beside the CPU's.

    Raises
    ------
    InputError
        The checkpoint lacks a tensor, has one too many, or one of another shape or dtype.

    Examples
    --------
    >>> trained, fresh, cpu = nn.Linear(2, 1), nn.Linear(2, 1), torch.device("cpu")
    >>> optimizer = torch.optim.AdamW(trained.parameters())
    >>> checkpoint = Checkpoint(step=0, tensors=capture(trained, optimizer, device=cpu), state={})
    >>> restore(checkpoint, fresh, torch.optim.AdamW(fresh.parameters()), device=cpu)
    >>> torch.equal(trained.weight, fresh.weight)
    True
    """
    where = f"checkpoint of step {checkpoint.step}"
    copy_weights(checkpoint.tensors.get("model", {}), model, where=where)
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    moments = checkpoint.tensors.get("optimizer", {})
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    packed = optimizer.state_dict()
    packed["state"] = {
        index: {
            key: value for path, value in moments.items() for key, _, owner in [path.partition("/")] if owner == name
        }
        for index, name in enumerate(ordered)
    }
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for path, value in moments.items():
        key, _, owner = path.partition("/")
        if owner not in shapes or (key != "step" and value.shape != shapes[owner]):
            raise InputError(f"{where}: optimizer tensor {path} of shape {tuple(value.shape)} fits no parameter")
    if checkpoint.step and len({len(state) for state in packed["state"].values()}) != 1:
        raise InputError(f"{where}: the optimizer's tensors do not cover every parameter alike")
    optimizer.load_state_dict(packed)
    random = checkpoint.tensors.get("random", {})
    if "cpu" in random:
        torch.set_rng_state(random["cpu"])
    if "cuda" in random and device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"], device)


@torch.no_grad()
def copy_weights(tensors: Mapping[str, Tensor], model: nn.Module, *, where: str) -> None:
    """Copy named tensors into a model's parameters and persistent buffers, all or none.

    Raises
    ------
    InputError
        Names, shapes or dtypes differ; the message begins with `where`.

    Examples
    --------
    >>> copy_weights({"weight": torch.ones(1, 2)}, nn.Linear(2, 1), where="model.safetensors")
    Traceback (most recent call last):
        ...
    seqdomains.errors.InputError: model.safetensors: no tensor bias, which this model has
    """
    own = _weights(model)
    for name in own.keys() - tensors.keys():
        raise InputError(f"{where}: no tensor {name}, which this model has")
    for name in tensors.keys() - own.keys():
        raise InputError(f"{where}: tensor {name}, which this model has not")
    for name, tensor in own.items():
        found = tensors[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise InputError(
                f"{where}: tensor {name} is {found.dtype} {tuple(found.shape)}, "
                f"expected {tensor.dtype} {tuple(tensor.shape)}"
            )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name, tied ones once."""
    persistent = model.state_dict(keep_vars=True)
    own: dict[str, Tensor] = {name: tensor.detach() for name, tensor in model.named_parameters()}
    own |= {name: tensor for name, tensor in model.named_buffers() if name in persistent}
    return own
