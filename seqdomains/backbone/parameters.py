"""Parameters between a file or an initialisation and a model: unset at first, then complete or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from seqdomains.backbone.config import MambaConfig
from seqdomains.errors import InputError

M = TypeVar("M", bound=nn.Module)

# A damaged file can differ in every tensor; this many lines tell what happened.
SHOWN_PROBLEMS = 6


def unset(module: Callable[..., M], *sizes: int, **options: object) -> M:
    """Build a module on torch's default device without drawing values that would be overwritten.

    Examples
    --------
    >>> state = torch.random.get_rng_state()
    >>> layer = unset(nn.Linear, 4, 3, bias=False)
    >>> tuple(layer.weight.shape), torch.equal(state, torch.random.get_rng_state())
    ((3, 4), True)
    """
    return module(*sizes, device="meta", **options).to_empty(device=torch.empty(0).device)


def expected_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of each distinct parameter by name; tied ones appear once, under their first name."""
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def block_shapes(build: Callable[[MambaConfig], nn.Module], config: MambaConfig) -> dict[str, tuple[int, ...]]:
    """Return `expected_shapes` of the model that `build` would give, from one block: 40,000 would take a minute.

    The blocks of a model with stages are not alike, and it is built with one in each, and those numbered on.

    Examples
    --------
    >>> from seqdomains.backbone import MambaLM
    >>> config = MambaConfig(d_model=16, n_layer=3)
    >>> block_shapes(MambaLM, config) == expected_shapes(MambaLM(config))
    True
    """
    layers = "backbone.layers."
    with torch.device("meta"):
        shapes = expected_shapes(build(config.model_copy(update={"n_layer": 1})))
    expected: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        if not name.startswith(layers):
            expected[name] = shape
            continue
        visit, _, rest = name.removeprefix(layers).partition(".")
        for block in range(config.n_layer):
            expected[f"{layers}{int(visit) * config.n_layer + block}.{rest}"] = shape
    return expected


def check_shapes(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], *, source: str, advice: str
) -> None:
    """Compare names and shapes of tensors and report every difference at once.

    Parameters
    ----------
    expected, found : mapping of str to tuple of int
        Shapes by name.
    source : str
        The file, for the message.
    advice : str
        What the reader can do, for the message.

    Raises
    ------
    InputError
        If a tensor is missing, unknown or of another shape.

    Examples
    --------
    >>> check_shapes({"a": (2,)}, {"a": (3,), "b": ()}, source="a.st", advice="Export it again.")
    Traceback (most recent call last):
    seqdomains.errors.InputError: a.st: tensor a has shape [3], expected [2]; tensor b is unknown. Export it again.
    """
    problems = []
    for name, shape in expected.items():
        if name not in found:
            problems.append(f"tensor {name} is missing, expected shape {list(shape)}")
        elif found[name] != shape:
            problems.append(f"tensor {name} has shape {list(found[name])}, expected {list(shape)}")
    problems += [f"tensor {name} is unknown" for name in found if name not in expected]
    if problems:
        more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise InputError(f"{source}: {'; '.join(problems[:SHOWN_PROBLEMS])}{more}. {advice}")


def check_finite(name: str, values: Tensor, *, source: str, advice: str) -> None:
    """Refuse a tensor that holds NaN or infinity.

    Raises
    ------
    InputError
        Naming the tensor and how many of its values are not finite.
    """
    bad = values.numel() - int(torch.isfinite(values).sum())
    if bad:
        raise InputError(f"{source}: tensor {name} holds {bad} non-finite of {values.numel()} values. {advice}")


def adopt(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make `tensors` the parameters of a model built on the meta device, without a copy.

    The names and shapes are those of `expected_shapes`. A parameter that several modules share stays shared.
    """
    adopted = {parameter: nn.Parameter(tensors[name]) for name, parameter in model.named_parameters()}
    for module in model.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, key, adopted[parameter])
