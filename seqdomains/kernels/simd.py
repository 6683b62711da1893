"""Sixteen float32 lanes as one numba value, and the functions of them that the CPU kernels need.

LLVM's loop vectoriser guards every inner loop over arrays with alias checks and unrolls short ones to scalars. These
lanes are LLVM vectors from the start: one register with AVX-512, two with AVX2, four with NEON.
"""

# numba's extension interface is untyped.
# mypy: disable-error-code="no-untyped-call, untyped-decorator"

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import lower_builtin, models, register_model

from seqdomains.kernels.compilation import kernel

WIDTH: Final = 16


def intrinsic(function: Callable[..., Any]) -> Any:
    """Make a numba function whose body is LLVM code."""
    return numba_intrinsic(function)


class _LanesType(types.Type):
    def __init__(self) -> None:
        super().__init__(name=f"float32x{WIDTH}")


_lanes: Final = _LanesType()
_FLOAT: Final = ir.FloatType()
_INT: Final = ir.IntType(32)
_VECTOR: Final = ir.VectorType(_FLOAT, WIDTH)
_INTS: Final = ir.VectorType(_INT, WIDTH)
_BITS: Final = ir.VectorType(ir.IntType(1), WIDTH)


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _VECTOR)


def _register_operator(symbol: Callable[..., Any], name: str) -> None:
    infer_global(symbol)(type(f"_{name}", (ConcreteTemplate,), {"cases": [signature(_lanes, _lanes, _lanes)]}))

    @lower_builtin(symbol, _lanes, _lanes)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, name)(*args)


for _symbol, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register_operator(_symbol, _name)


def _splat(builder: Any, scalar: Any) -> Any:
    kind = ir.VectorType(scalar.type, WIDTH)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(_INTS, [0] * WIDTH))


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


def _mask(builder: Any, count: Any) -> Any:
    lane = ir.Constant(_INTS, list(range(WIDTH)))
    return builder.icmp_signed("<", lane, _splat(builder, builder.trunc(count, _INT)))


def _is_full(builder: Any, count: Any) -> Any:
    return builder.icmp_signed(">=", count, ir.Constant(count.type, WIDTH))


def _declared(builder: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """Return a float32 in every lane."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, args[0])

    return _lanes(types.float32), build


@intrinsic
def spread(typing: Any, array: Any, index: Any) -> Any:
    """Return one element of a flat float32 array in every lane; unlike array[index], without a test for index < 0."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return _splat(builder, builder.load(builder.gep(data, [args[1]])))

    return _lanes(array, types.intp), build


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Read 16 elements of a flat float32 array from `index` on."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, sig.args[0], *args), align=4)

    return _lanes(array, types.intp), build


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """Write 16 elements of a flat float32 array from `index` on."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, sig.args[0], *args[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _lanes), build


@intrinsic
def load_part(typing: Any, array: Any, index: Any, count: Any) -> Any:
    """Read `count` elements, at most 16, of a flat float32 array from `index` on; the other lanes are 0."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], *args[:2])
        result = cgutils.alloca_once(builder, _VECTOR)
        with builder.if_else(_is_full(builder, args[2])) as (full, part):
            with full:
                builder.store(builder.load(pointer, align=4), result)
            with part:
                function = _declared(
                    builder, f"llvm.masked.load.v{WIDTH}f32.p0", _VECTOR, [_VECTOR.as_pointer(), _INT, _BITS, _VECTOR]
                )
                zeros = ir.Constant(_VECTOR, [0.0] * WIDTH)
                some = [pointer, ir.Constant(_INT, 4), _mask(builder, args[2]), zeros]
                builder.store(builder.call(function, some), result)
        return builder.load(result)

    return _lanes(array, types.intp, types.intp), build


@intrinsic
def store_part(typing: Any, array: Any, index: Any, value: Any, count: Any) -> Any:
    """Write the first `count` lanes, at most 16, to a flat float32 array from `index` on."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], *args[:2])
        with builder.if_else(_is_full(builder, args[3])) as (full, part):
            with full:
                builder.store(args[2], pointer, align=4)
            with part:
                arguments = [_VECTOR, _VECTOR.as_pointer(), _INT, _BITS]
                function = _declared(builder, f"llvm.masked.store.v{WIDTH}f32.p0", ir.VoidType(), arguments)
                builder.call(function, [args[2], pointer, ir.Constant(_INT, 4), _mask(builder, args[3])])
        return context.get_dummy_value()

    return types.void(array, types.intp, _lanes, types.intp), build


@intrinsic
def muladd(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a b + c, rounded once where the machine can."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.call(_declared(builder, f"llvm.fmuladd.v{WIDTH}f32", _VECTOR, [_VECTOR] * 3), args)

    return _lanes(_lanes, _lanes, _lanes), build


@intrinsic
def total(typing: Any, value: Any) -> Any:
    """Return the sum of the lanes, added as a tree."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = args[0]
        width = WIDTH
        while width > 1:
            width //= 2
            low = builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(_INT, width), list(range(width))))
            high = builder.shuffle_vector(
                vector, vector, ir.Constant(ir.VectorType(_INT, width), list(range(width, 2 * width)))
            )
            vector = builder.fadd(low, high)
        return builder.extract_element(vector, ir.Constant(_INT, 0))

    return types.float32(_lanes), build


@intrinsic
def totals(typing: Any, array: Any, index: Any) -> Any:
    """Return the sums of the lanes of 16 vectors that lie one after the other from `index` on, one sum in each lane.

    Pairs of vectors fold into one that holds both sums of halves, so that 16 sums take 45 instructions and not 128.
    """

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        places = [builder.add(args[1], ir.Constant(args[1].type, WIDTH * n)) for n in range(WIDTH)]
        vectors = [builder.load(_pointer(context, builder, sig.args[0], args[0], at), align=4) for at in places]
        half = WIDTH
        while half > 1:
            half //= 2
            front = [start + lane for start in range(0, 2 * WIDTH, 2 * half) for lane in range(half)]
            back = [lane + half for lane in front]
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [
                builder.fadd(
                    builder.shuffle_vector(a, b, ir.Constant(_INTS, front)),
                    builder.shuffle_vector(a, b, ir.Constant(_INTS, back)),
                )
                for a, b in pairs
            ]
        return vectors[0]

    return _lanes(array, types.intp), build


@intrinsic
def select_less(typing: Any, x: Any, bound: Any, below: Any, otherwise: Any) -> Any:
    """Return, lane by lane, `below` where x < bound and `otherwise` elsewhere, NaN included."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return _lanes(_lanes, _lanes, _lanes, _lanes), build


_MAGIC: Final = np.float32(1.5 * 2**23)
_MAGIC_BITS: Final = int(_MAGIC.view(np.int32))


@intrinsic
def _scale(typing: Any, shifted: Any) -> Any:
    """Return 2**k for shifted = k + _MAGIC, whose low bits hold k; 0 for k = -127 and inf for k = 128."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], _INTS)
        exponent = builder.sub(bits, ir.Constant(_INTS, [_MAGIC_BITS - 127] * WIDTH))
        return builder.bitcast(builder.shl(exponent, ir.Constant(_INTS, [23] * WIDTH)), _VECTOR)

    return _lanes(_lanes), build


_LOWEST: Final = np.float32(-127.0)
_HIGHEST: Final = np.float32(128.0)
_LOG2_E: Final = np.float32(math.log2(math.e))
# 2**x = 1 + x (c1 + x (c2 + ...)) on [-0.5, 0.5]: minimax of relative error 2e-9, exact at 0 so that a step of zero
# leaves the state as it is.
_E1: Final = np.float32(0.6931472028551722)
_E2: Final = np.float32(0.24022647913619966)
_E3: Final = np.float32(0.05550332470867472)
_E4: Final = np.float32(0.009618437358001497)
_E5: Final = np.float32(0.0013398874523946058)
_E6: Final = np.float32(0.00015353362053590475)


@kernel
def _clamp(x: Any, lowest: float, highest: float) -> Any:
    x = select_less(x, splat(lowest), splat(lowest), x)
    return select_less(splat(highest), x, splat(highest), x)


@kernel
def _power(shifted: Any, r: Any) -> Any:
    square = r * r
    low = muladd(splat(_E1), r, splat(np.float32(1)))
    high = muladd(muladd(splat(_E6), r, splat(_E5)), square, muladd(splat(_E4), r, splat(_E3)))
    high = muladd(high, r, splat(_E2))
    return muladd(high, square, low) * _scale(shifted)


@kernel
def exp2(x: Any) -> Any:
    """Return 2**x to 1.3e-7 relative; 0 below 2**-126, inf above 2**127.5, NaN for NaN."""
    x = _clamp(x, _LOWEST, _HIGHEST)
    shifted = x + splat(_MAGIC)
    return _power(shifted, x - (shifted - splat(_MAGIC)))


_LN2: Final = np.float32(math.log(2.0))
# ln 2 in two parts: k times the first is exact for any exponent k.
_LN2_HIGH: Final = np.float32(0.693359375)
_LN2_LOW: Final = np.float32(math.log(2.0) - 0.693359375)


@kernel
def exp(x: Any) -> Any:
    """Return e**x to 1.5e-7 relative, where exp2(x log2(e)) would lose |x| 1e-7; ends as in `exp2`."""
    x = _clamp(x, _LOWEST * _LN2, _HIGHEST * _LN2)
    shifted = muladd(x, splat(_LOG2_E), splat(_MAGIC))
    k = splat(_MAGIC) - shifted
    r = muladd(k, splat(_LN2_LOW), muladd(k, splat(_LN2_HIGH), x)) * splat(_LOG2_E)
    return _power(shifted, r)


# log(1 + w) = s q(s**2) with s = w / (2 + w), that is 2 atanh(s): minimax of relative error 4e-9 for w in [0, 1].
_L0: Final = np.float32(2.000000007920808)
_L1: Final = np.float32(0.6666631468404248)
_L2: Final = np.float32(0.4002491024050605)
_L3: Final = np.float32(0.27960602954319147)
_L4: Final = np.float32(0.2817833729753231)


@kernel
def softplus(x: Any) -> tuple[Any, Any]:
    """Return log(1 + e**x) and its derivative, both accurate relative to their own size for any x."""
    zero, one = splat(np.float32(0)), splat(np.float32(1))
    w = exp(select_less(x, zero, x, zero - x))
    s = w / (w + splat(np.float32(2)))
    v = s * s
    q = muladd(splat(_L4), v, splat(_L3))
    q = muladd(q, v, splat(_L2))
    q = muladd(q, v, splat(_L1))
    q = muladd(q, v, splat(_L0))
    return muladd(s, q, select_less(x, zero, zero, x)), select_less(x, zero, w, one) / (one + w)


@kernel
def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e**-x)."""
    one = splat(np.float32(1))
    return one / (one + exp(splat(np.float32(0)) - x))
