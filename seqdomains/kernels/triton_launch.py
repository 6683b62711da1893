"""Launch Triton kernels that were compiled before, without asking again what to compile.

Triton looks at every argument of every call to find the compiled kernel, and asks the driver about every pointer: some
30 us for one of the scan's kernels on a server's CPU, of which a short scan needs six. The caller knows beforehand
what decides: dtypes, constants, the device. `launch` does it for one kernel, `Launches` for all that a call makes.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

_compiled: dict[Hashable, Any] = {}


def aligned(tensors: Sequence[Tensor | None]) -> bool:
    """Whether all tensors begin on 16-byte boundaries, which Triton compiles for separately."""
    return all(tensor is None or tensor.data_ptr() % 16 == 0 for tensor in tensors)


def laid_out(tensor: Tensor) -> Tensor:
    """Return a tensor without gaps that begins on a 16-byte boundary, a copy where it is none.

    Triton compiles other code for other boundaries, which may take a sum in another order.
    """
    tensor = tensor.contiguous()
    return tensor if aligned((tensor,)) else tensor.clone()


def launch_key(tensors: Sequence[Tensor | None], channels: int = 0) -> Hashable:
    """Return what decides the compiled kernels beside their constants, for `launch`.

    `channels` is the one integer that Triton specialises on, as a multiple of 16 and as one, where there is such.
    """
    first = tensors[0]
    if first is None or not first.is_cuda or torch.version.hip is not None or not aligned(tensors):
        return None
    return first.device, channels % 16 == 0, channels == 1, *[None if x is None else x.dtype for x in tensors]


def launch(
    kernel: Any, programs: int, arguments: Sequence[Any], constants: dict[str, Any], key: Hashable, **options: Any
) -> None:
    """Launch a kernel on the current device.

    Parameters
    ----------
    kernel : JITFunction
        Its constants come last in its signature.
    programs : int
        Size of the grid's x axis.
    arguments : sequence
        Everything that is no constant, in the signature's order.
    constants : dict
        The ``constexpr`` arguments.
    key : hashable or None
        Stands for the device, the dtypes of all tensors, their alignment, and every argument that Triton specialises
        on. None launches in Triton's own way.
    options : Any
        ``num_warps`` and the like.
    """
    if key is None:
        kernel[(programs,)](*arguments, **constants, **options)
        return
    key = (kernel, key, *constants.values(), *options.values())
    known = _compiled.get(key)
    if known is None:
        compiled = kernel[(programs,)](*arguments, **constants, **options)
        # The interpreter returns nothing that could be launched again.
        if compiled is not None:
            _compiled[key] = compiled, _in_order(kernel, len(arguments), constants)
        return
    compiled, values = known
    # Triton asks the driver about each tensor's memory, and takes an address as it is.
    pointers = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
    compiled[(programs, 1, 1)](*pointers, *values)


def _in_order(kernel: Any, before: int, constants: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return a kernel's constants, which follow `before` other arguments, in the order of its signature."""
    names = [parameter.name for parameter in kernel.params]
    if names[before:] != [name for name in names if name in constants]:
        raise TypeError(f"{kernel.__name__}: constants must come last in the signature")
    return tuple(constants[name] for name in names[before:])


class Launches:
    """Launches with all that is known before a call's tensors are: kernels, sizes, constants, places in buffers.

    Building one compiles what is not compiled yet and launches nothing.

    Parameters
    ----------
    device : torch.device
        Where they will run; the current device while they are added.
    dtypes : mapping from str to torch.dtype
        The buffers' names and dtypes. All begin on 16-byte boundaries.
    """

    def __init__(self, device: torch.device, dtypes: Mapping[str, torch.dtype]) -> None:
        self._device = device
        self._dtypes = dtypes
        self._known: list[tuple[Any, list[tuple[str, int]], tuple[Any, ...]]] = []

    def add(
        self,
        kernel: Any,
        programs: int,
        pointers: Sequence[str | tuple[str, int]],
        sizes: Sequence[int],
        constants: Mapping[str, Any],
        **options: Any,
    ) -> None:
        """Add a launch.

        Parameters
        ----------
        kernel : JITFunction
            Its signature has pointers, then sizes, then constants.
        programs : int
            Size of the grid's x axis.
        pointers : sequence of str or tuple of str and int
            Names of buffers, or with how many elements to skip.
        sizes, constants, options : Any
            As in `launch`.
        """
        places = [(place, 0) if isinstance(place, str) else place for place in pointers]
        dtypes = tuple(self._dtypes[name] for name, _ in places)
        own = _in_order(kernel, len(places) + len(sizes), constants)
        parameters = kernel.params[len(places) :]
        special = [size for size, each in zip(sizes, parameters, strict=False) if not each.do_not_specialize]
        key = (kernel, self._device, dtypes, *special, own, *options.values())
        compiled = _compiled.get(key)
        if compiled is None:
            compiled = _compiled[key] = kernel.warmup(*dtypes, *sizes, *own, grid=(programs,), **options)
        offsets = [(name, skipped * self._dtypes[name].itemsize) for name, skipped in places]
        self._known.append((compiled[(programs, 1, 1)], offsets, (*sizes, *own)))

    def run(self, addresses: Mapping[str, int]) -> None:
        """Launch all of them in order on the current device, over buffers at these addresses."""
        # Else each launch would ask for it.
        stream = torch._C._cuda_getCurrentRawStream(self._device.index) if self._device.type == "cuda" else None
        for start, places, rest in self._known:
            start(*[addresses[name] + offset for name, offset in places], *rest, stream=stream)
