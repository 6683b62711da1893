"""Numbers of a state for the CPU kernels: 16 real lanes, or two times 16 that are real and imaginary parts.

The kernels are written once. `kind` is None where states are real and True where they are complex, and numba compiles
a kernel anew for its type; the functions below then choose by the type of their first argument. In memory the real
parts of 16 channels lie before the imaginary ones.
"""

# numba infers types; what it calls carries no annotations.
# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numba.core import types
from numba.extending import overload

from seqdomains.kernels.compilation import kernel
from seqdomains.kernels.simd import exp2, muladd, select_less, splat

_LN2: Final = np.float32(math.log(2.0))
# 1 / (2 pi) in two parts.
_TURNS: Final = np.float32(0.5 / math.pi)
_TURNS_LOW: Final = np.float32(0.5 / math.pi - float(_TURNS))
_MAGIC: Final = np.float32(1.5 * 2**23)
_ONE: Final = np.float32(1)
_HALF: Final = np.float32(0.5)
_MINUS_ZERO: Final = np.float32(-0.0)
# sin(pi f) = f S(f**2) and cos(pi f) = 1 + f**2 C(f**2) on [-0.5, 0.5]: minimax of errors 5e-9 and 3e-10.
_S0: Final = np.float32(3.1415927410125732)
_S1: Final = np.float32(-5.167709827423096)
_S2: Final = np.float32(2.550069808959961)
_S3: Final = np.float32(-0.5982421040534973)
_S4: Final = np.float32(0.07756037265062332)
_C0: Final = np.float32(-4.934802055358887)
_C1: Final = np.float32(4.058709621429443)
_C2: Final = np.float32(-1.3352160453796387)
_C3: Final = np.float32(0.23495392501354218)
_C4: Final = np.float32(-0.02442069724202156)


@kernel
def minus(x):
    """Return -x; unlike 0 - x, it costs nothing inside `muladd`."""
    return splat(_MINUS_ZERO) - x


@kernel
def half_turn(f):
    """Return the sine and the cosine of pi f for f in [-0.5, 0.5]."""
    v = f * f
    s = muladd(muladd(splat(_S4), v, splat(_S3)), v, splat(_S2))
    s = muladd(muladd(s, v, splat(_S1)), v, splat(_S0))
    c = muladd(muladd(splat(_C4), v, splat(_C3)), v, splat(_C2))
    c = muladd(muladd(c, v, splat(_C1)), v, splat(_C0))
    return s * f, muladd(c, v, splat(_ONE))


@kernel
def rotation(angle):
    """Return the sine and the cosine of half an angle, whole turns left out.

    What is left of a turn is exact to 2**-24 of it, so that the error is that of the angle itself. Beyond 2**22 turns a
    float32 knows no angle; the result is then some number in [-1, 1].
    """
    magic = splat(_MAGIC)
    whole = (angle * splat(_TURNS) + magic) - magic
    f = muladd(angle, splat(_TURNS_LOW), muladd(angle, splat(_TURNS), minus(whole)))
    f = select_less(f, splat(-_HALF), splat(-_HALF), f)
    f = select_less(splat(_HALF), f, splat(_HALF), f)
    return half_turn(f)


@kernel
def complex_decay(d, rate):
    """Return e**(d A) from `rate`, A with its real part times log2(e); exactly 1 for d = 0."""
    e = exp2(d * rate[0])
    s, c = rotation(d * rate[1])
    twice = s + s
    return muladd(minus(twice), e * s, e), twice * (e * c)


def _by_type(lanes: Any, pair: Any) -> Any:
    """Compile a function as `pair` where its first argument is complex, or a `kind` that is, and else as `lanes`."""

    def register(function: Any) -> Any:
        @overload(function, strict=False)
        def choose(first, *others):
            return pair if isinstance(first, types.BaseTuple | types.Boolean) else lanes

        return function

    return register


@_by_type(
    lambda kind, re, im: re,
    lambda kind, re, im: (re, im),
)
def number(kind, re, im):
    """Return a number of its two parts; where states are real, the second is not even read from memory."""


@_by_type(
    lambda x: x,
    lambda x: x[0],
)
def real(x):
    """Return the real part."""


@_by_type(
    lambda x: x,
    lambda x: x[1],
)
def imag(x):
    """Return the imaginary part; of real lanes themselves, which nobody stores."""


@_by_type(
    lambda rate, d: exp2(d * rate),
    lambda rate, d: complex_decay(d, rate),
)
def decay(rate, d):
    """Return e**(d A)."""


@_by_type(
    lambda a, h, total: muladd(a, h, total),
    lambda a, h, total: (
        muladd(a[0], h[0], muladd(minus(a[1]), h[1], total[0])),
        muladd(a[0], h[1], muladd(a[1], h[0], total[1])),
    ),
)
def times_add(a, h, total):
    """Return a h + total."""


@_by_type(
    lambda g, a: g * a,
    lambda g, a: (muladd(g[0], a[0], g[1] * a[1]), muladd(g[1], a[0], minus(g[0]) * a[1])),
)
def times_conjugate(g, a):
    """Return g conj(a)."""


@_by_type(
    lambda b, x: x * b,
    lambda b, x: (x * b[0], x * b[1]),
)
def scaled(b, x):
    """Return b x for real x."""


@_by_type(
    lambda b, x, total: muladd(b, x, total),
    lambda b, x, total: (muladd(b[0], x, total[0]), muladd(b[1], x, total[1])),
)
def scaled_add(b, x, total):
    """Return b x + total for real x."""


@_by_type(
    lambda c: c,
    lambda c: (c[0], minus(c[1])),
)
def conjugate(c):
    """Return conj(c)."""


@_by_type(
    lambda g, b, total: muladd(g, b, total),
    lambda g, b, total: muladd(g[1], b[1], muladd(g[0], b[0], total)),
)
def dot(g, b, total):
    """Return Re(g conj(b)) + total, for real total."""


@_by_type(
    lambda s, rate, total: muladd(s, rate, total),
    lambda s, rate, total: (muladd(s[0], rate[0], total[0]), muladd(s[1], rate[1], total[1])),
)
def parts_add(s, rate, total):
    """Return the products of the parts, each added to its own total."""


@_by_type(
    lambda total: total * splat(_LN2),
    lambda total: muladd(total[0], splat(_LN2), total[1]),
)
def natural(total):
    """Return the sum of the parts of `parts_add` for a rate whose real part is not times log2(e)."""


@_by_type(
    lambda kind, x: x,
    lambda kind, x: x + x,
)
def with_conjugate(kind, x):
    """Return twice a real part: where states are complex, their conjugates add as much."""
