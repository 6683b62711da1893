"""Make the Mamba and Falcon-Mamba models of transformers run on the kernels of this package, and undo it.

transformers has had two arrangements. Since 5.16 a mixer's only forward calls five functions of its module, which stand
for CUDA kernels where those are installed and for plain torch elsewhere. Before, a mixer had a forward for kernels,
`cuda_kernels_forward`, taken on a GPU alone, and `slow_forward` with a loop over time. In both the functions are
replaced where the module looks them up, so that masks, caches and states stay transformers' own, and a forward is put
in front that trains through `mamba_inner_fn` where this gives the same, and takes the way through kernels on a CPU too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType, SimpleNamespace, TracebackType
from typing import Any, Final

import torch
from torch import Tensor, nn

from seqdomains.errors import ConfigError
from seqdomains.kernels.compat.convolution import SILU, causal_conv1d_fn, causal_conv1d_update
from seqdomains.kernels.compat.inner import mamba_inner_fn
from seqdomains.kernels.compat.scan import selective_scan_fn, selective_state_update

KNOWN: Final = "4.48 to 5.24"
# Module, class of the mixer and class of the configuration of each family.
FAMILIES: Final = (
    ("mamba", "MambaMixer", "MambaConfig"),
    ("falcon_mamba", "FalconMambaMixer", "FalconMambaConfig"),
)

_ABSENT: Final = object()
_active: list[TransformersPatch] = []
_replaced: list[tuple[Any, str, Any]] = []


class TransformersPatch:
    """What `patch_transformers` returns: transformers' own functions come back with `undo`, or as a ``with`` ends."""

    def undo(self) -> None:
        """Restore what was replaced, once no other patch is active. A second call does nothing."""
        if self in _active:
            _active.remove(self)
        if not _active:
            _restore()

    def __enter__(self) -> TransformersPatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()


def patch_transformers() -> TransformersPatch:
    """Make the Mamba and Falcon-Mamba models of transformers run on our kernels, on a CPU and on a GPU.

    Training, prefill and single steps with a cache give the same numbers as before to rounding, for models that were
    built before or after. It holds until `undo` or to the end of a ``with`` block. Training without an attention mask
    goes through `mamba_inner_fn`, which keeps less; with a mask, with adapters or hooks on the projections, and in
    Falcon-Mamba, the same functions are called one by one. A convolution wider than 4 or an activation other than SiLU
    stays transformers' own.

    Returns
    -------
    TransformersPatch
        Undoes it.

    Raises
    ------
    ImportError
        transformers is not installed.
    ConfigError
        This version of transformers keeps its functions elsewhere; 4.48 to 5.24 are known. Nothing is replaced then.

    Examples
    --------
    >>> from transformers import MambaConfig, MambaForCausalLM
    >>> model = MambaForCausalLM(MambaConfig(vocab_size=5, hidden_size=8, num_hidden_layers=1, state_size=4))
    >>> tokens = torch.tensor([[1, 2, 3]])
    >>> with patch_transformers():
    ...     logits = model(tokens).logits
    >>> torch.allclose(logits, model(tokens).logits, atol=1e-5)
    True
    """
    patch = TransformersPatch()
    if not _active:
        try:
            _install()
        except BaseException:
            _restore()
            raise
    _active.append(patch)
    return patch


def _install() -> None:
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise ImportError("patch_transformers needs transformers: pip install transformers") from error
    for family, mixer, config in FAMILIES:
        name = f"transformers.models.{family}.modeling_{family}"
        try:
            module = import_module(name)
            cls, described = getattr(module, mixer), getattr(module, config)
        except (ImportError, AttributeError) as error:
            raise _unknown(transformers, f"no {mixer} in {name}") from error
        if hasattr(cls, "cuda_kernels_forward"):
            _install_kernels_forward(transformers, module, cls, described)
        else:
            _install_functions(transformers, module, cls)


def _unknown(transformers: Any, found: str) -> ConfigError:
    return ConfigError(
        f"transformers {transformers.__version__} is not arranged as expected: {found}. patch_transformers knows "
        f"{KNOWN}; install one of these, or a newer seqdomains"
    )


def _replace(owner: Any, name: str, value: Any) -> None:
    _replaced.append((owner, name, vars(owner).get(name, _ABSENT)))
    setattr(owner, name, value)


def _restore() -> None:
    while _replaced:
        owner, name, value = _replaced.pop()
        if value is _ABSENT:
            delattr(owner, name)
        else:
            setattr(owner, name, value)


def _require_called(transformers: Any, function: Any, names: Iterable[str], module: ModuleType) -> None:
    """Raise ConfigError unless a function looks these names up, and the module holds them."""
    looked_up = inspect.unwrap(function).__code__.co_names
    for name in names:
        if name not in looked_up or not hasattr(module, name):
            raise _unknown(transformers, f"{module.__name__}.{function.__qualname__} does not call {name}")


def _install_functions(transformers: Any, module: ModuleType, cls: Any) -> None:
    """Replace five functions of the module, as transformers from 5.16 calls them on any device."""
    own = {
        "mamba_selective_scan": _scan,
        "mamba_selective_state_update": selective_state_update,
        # None sends the forward on to the functions above; `_forward` calls ours where it may.
        "mamba_inner_fn": _decline,
        "causal_conv1d_fn": _where_covered(causal_conv1d_fn, getattr(module, "causal_conv1d_fn", None)),
        "causal_conv1d_update": _where_covered(causal_conv1d_update, getattr(module, "causal_conv1d_update", None)),
    }
    _require_called(transformers, cls.forward, own, module)
    for name, function in own.items():
        _replace(module, name, function)
    _replace(cls, "forward", _forward(cls.forward, fuses="Falcon" not in cls.__name__))


def _install_kernels_forward(transformers: Any, module: ModuleType, cls: Any, config: Any) -> None:
    """Replace what `cuda_kernels_forward` of transformers before 5.16 calls, and let a CPU take it too."""
    if not hasattr(module, "selective_scan_fn"):
        # From 5.0 on the names appear as the first mixer is built.
        with torch.device("meta"):
            cls(config(hidden_size=16, num_hidden_layers=1), layer_idx=0)
    own: dict[str, Any] = {"selective_scan_fn": selective_scan_fn, "selective_state_update": selective_state_update}
    kernels_forward = cls.cuda_kernels_forward
    inner = next((n for n in inspect.unwrap(kernels_forward).__code__.co_names if n.endswith("mamba_inner_fn")), "")
    own[inner or "mamba_inner_fn"] = mamba_inner_fn
    if hasattr(module, "_lazy_load_causal_conv1d"):
        own["_lazy_load_causal_conv1d"] = lambda: (causal_conv1d_update, causal_conv1d_fn)
    else:
        own |= {"causal_conv1d_fn": causal_conv1d_fn, "causal_conv1d_update": causal_conv1d_update}
    _require_called(transformers, kernels_forward, own, module)
    if hasattr(module, "lazy_load_kernel"):
        # What each mixer asks, as it is built, for the functions that it then puts in their places.
        step = SimpleNamespace(selective_state_update=selective_state_update)
        loaded = SimpleNamespace(**own, ops=SimpleNamespace(triton=SimpleNamespace(selective_state_update=step)))
        own["lazy_load_kernel"] = lambda *_, **__: loaded
    for name, function in own.items():
        _replace(module, name, function)

    def through_kernels(self: Any, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
        if self.activation not in SILU or not 2 <= self.conv_kernel_size <= 4:
            return self.slow_forward(hidden_states, *arguments, **options)
        with _evaluating(self):
            return kernels_forward(self, hidden_states, *arguments, **options)

    _replace(cls, "forward", _forward(through_kernels, fuses="Falcon" not in cls.__name__))


@contextmanager
def _evaluating(mixer: Any) -> Any:
    """Let `cuda_kernels_forward` call function by function: its way for training forgets the attention mask.

    Only the mixer's own flag, which decides nothing else, not those of the modules in it.
    """
    before, mixer.training = mixer.training, False
    try:
        yield
    finally:
        mixer.training = before


def _forward(theirs: Callable[..., Any], *, fuses: bool) -> Callable[..., Any]:
    def forward(self: Any, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
        # A mask would have to be applied after the convolution too. Falcon-Mamba norms the step before its projection
        # except in mamba_inner_fn, which norms it after: the two ways differ by more than rounding.
        alone = not arguments and all(value is None for name, value in options.items() if name != "cache_position")
        if not (fuses and self.training and alone and _is_plain(self)):
            return theirs(self, hidden_states, *arguments, **options)
        return mamba_inner_fn(
            self.in_proj(hidden_states).transpose(1, 2),
            self.conv1d.weight,
            self.conv1d.bias,
            self.x_proj.weight,
            self.dt_proj.weight,
            self.out_proj.weight,
            self.out_proj.bias,
            -torch.exp(self.A_log.float()),
            D=self.D.float(),
            delta_bias=self.dt_proj.bias.float(),
        )

    return forward


def _is_plain(mixer: Any) -> bool:
    """Whether the weights of the layers say all that the layers do: no adapters, no hooks, a covered convolution."""
    layers = ((mixer.conv1d, nn.Conv1d), (mixer.x_proj, nn.Linear), (mixer.dt_proj, nn.Linear))
    return (
        mixer.activation in SILU
        and 2 <= mixer.conv_kernel_size <= 4
        and all(
            type(layer) is kind
            and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)
            and "forward" not in vars(layer)
            for layer, kind in (*layers, (mixer.out_proj, nn.Linear))
        )
    )


def _decline(*_: Any, **__: Any) -> None:
    """Compute nothing."""


def _scan(*tensors: Any, use_mambapy: bool = False, use_associative_scan: bool = False, **options: Any) -> Any:
    """Scan, whichever of transformers' own loops the configuration prefers."""
    scan: Callable[..., Any] = selective_scan_fn
    return scan(*tensors, **options)


def _where_covered(ours: Callable[..., Any], theirs: Any) -> Callable[..., Any]:
    def convolve(x: Tensor, *arguments: Any, activation: str | None = None, **options: Any) -> Any:
        width = arguments[-2].shape[-1]  # the weight stands before the bias in both functions
        # Packed sequences are among the options: transformers says that its scan does not keep them apart.
        plain = all(value is None for value in options.values())
        if plain and (activation is None or activation in SILU) and 2 <= width <= 4:
            return ours(x, *arguments, activation=activation)
        return theirs(x, *arguments, activation=activation, **options)

    return convolve
