"""Launch a Triton kernel that was compiled before, without asking again what to compile.

Triton looks at every argument of every call to find the compiled kernel, and asks the driver about every pointer: some
30 us for one of the scan's kernels on a server's CPU, of which a short scan needs seven. The caller knows beforehand
what decides: dtypes, constants, the device.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from torch import Tensor

_compiled: dict[Hashable, tuple[Any, tuple[Any, ...]]] = {}


def aligned(tensors: Sequence[Tensor | None]) -> bool:
    """Whether all tensors begin on 16-byte boundaries, which Triton compiles for separately."""
    return all(tensor is None or tensor.data_ptr() % 16 == 0 for tensor in tensors)


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
        names = [parameter.name for parameter in kernel.params]
        if names[len(arguments) :] != [name for name in names if name in constants]:
            raise TypeError(f"{kernel.__name__}: constants must come last in the signature")
        # The interpreter returns nothing that could be launched again.
        if compiled is not None:
            _compiled[key] = compiled, tuple(constants[name] for name in names[len(arguments) :])
        return
    compiled, values = known
    # Triton asks the driver about each tensor's memory, and takes an address as it is.
    pointers = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
    compiled[(programs, 1, 1)](*pointers, *values)
