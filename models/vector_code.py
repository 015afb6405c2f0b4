"""Loops over vectors of float32, written in Python and compiled for the CPU at hand by LLVM (llvmlite).

A function is written by running Python once: `Floats` and `Index` are numbers that are not known yet, and what is done
with them is what the compiled function will do. Loops of Python are written out, those of `Code.loop` are loops.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from models.kernel import Kernel, cpu_features
from models.network_shape import WIDEST

_FLOAT, _INT, _INDEX, _POINTER = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.PointerType()
_FUSED = ("contract",)  # a product and a sum may become one operation; nothing else is relaxed
_TO_INTEGER = 12582912.0  # 1.5 x 2^23: of a float32 beside it, the last bits are an integer
_EXP2 = (1.0000000717, 0.6931469671, 0.2402211972, 0.0555071327, 0.0096755413, 0.0013276472)  # see `Code.exp2`
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
LEAST = -3.4e38  # less than all that is compared with it
_LOG_2 = (0.693359375, -2.12194440e-4)  # the first is exact in few bits


class Index:
    """A position, known when the function runs."""

    __slots__ = ("_builder", "value")

    def __init__(self, builder: ir.IRBuilder, value: Any) -> None:
        self._builder, self.value = builder, value

    def __add__(self, other: "Index | int") -> "Index":
        return Index(self._builder, self._builder.add(self.value, _index(other)))

    def __sub__(self, other: "Index | int") -> "Index":
        return Index(self._builder, self._builder.sub(self.value, _index(other)))

    def __mul__(self, other: int) -> "Index":
        return Index(self._builder, self._builder.mul(self.value, _INDEX(other)))

    def at_least(self, other: "Index | int") -> "Index":
        """The larger of two."""
        return self._either(">", other)

    def at_most(self, other: "Index | int") -> "Index":
        """The smaller of two."""
        return self._either("<", other)

    def _either(self, relation: str, other: "Index | int") -> "Index":
        holds = self._builder.icmp_signed(relation, self.value, _index(other))
        return Index(self._builder, self._builder.select(holds, self.value, _index(other)))


class Floats:
    """A vector of float32, one number a lane."""

    __slots__ = ("_builder", "value")

    def __init__(self, builder: ir.IRBuilder, value: Any) -> None:
        self._builder, self.value = builder, value

    def __add__(self, other: "Floats | float") -> "Floats":
        return Floats(self._builder, self._builder.fadd(self.value, self._other(other), flags=_FUSED))

    def __sub__(self, other: "Floats | float") -> "Floats":
        return Floats(self._builder, self._builder.fsub(self.value, self._other(other), flags=_FUSED))

    def __mul__(self, other: "Floats | float") -> "Floats":
        return Floats(self._builder, self._builder.fmul(self.value, self._other(other), flags=_FUSED))

    def __truediv__(self, other: "Floats | float") -> "Floats":
        return Floats(self._builder, self._builder.fdiv(self.value, self._other(other)))

    def __neg__(self) -> "Floats":
        return Floats(self._builder, self._builder.fsub(self._other(0.0), self.value, flags=_FUSED))

    def __abs__(self) -> "Floats":
        return self.at_least(-self)

    def at_least(self, other: "Floats | float") -> "Floats":
        """The larger of two; of what is no number: itself."""
        return self.where("<", other, other, self)

    def at_most(self, other: "Floats | float") -> "Floats":
        """The smaller of two; of what is no number: itself."""
        return self.where(">", other, other, self)

    def where(
        self, relation: str, other: "Floats | float", then: "Floats | float", else_: "Floats | float"
    ) -> "Floats":
        """``then`` in lanes where the relation holds, ``else_`` in the others."""
        holds = self._builder.fcmp_ordered(relation, self.value, self._other(other))
        return Floats(self._builder, self._builder.select(holds, self._other(then), self._other(else_)))

    def _other(self, other: "Floats | float") -> Any:
        return (
            other.value if isinstance(other, Floats) else ir.Constant(self.value.type, [other] * self.value.type.count)
        )


class _Memory:
    """Contiguous numbers: the last dimension, and rows before it of whatever number."""

    kind: Any
    dtype: type[np.generic]

    def __init__(self, code: "Code", pointer: Any, *row: int) -> None:
        """``row``: the shape of what one index picks."""
        self._code, self._pointer, self._row = code, pointer, row

    def __getitem__(self, at: Index | int) -> Self:
        return type(self)(self._code, self.address(at * math.prod(self._row)), *self._row[1:])

    def part(self, first: Index | int) -> Self:
        """The row from that number on."""
        return type(self)(self._code, self.address(first))

    def rows(self, first: Index | int) -> Self:
        """The rows from that one on."""
        return type(self)(self._code, self.address(first * math.prod(self._row)), *self._row)

    def address(self, at: Index | int) -> Any:
        """Of a number, for the compiler."""
        return self._code.builder.gep(self._pointer, [_index(at)], source_etype=self.kind)

    def one(self, at: Index | int) -> Any:
        """A number, for the compiler."""
        return self._code.builder.load(self.address(at), typ=self.kind, align=4)


class Positions(_Memory):
    """Whole numbers of 64 bits."""

    kind, dtype = _INDEX, np.int64

    def read(self, at: Index | int) -> Index:
        """One of them."""
        return Index(self._code.builder, self.one(at))

    def write(self, at: Index | int, position: Index) -> None:
        """Put one."""
        self._code.builder.store(position.value, self.address(at), align=4)


class Array(_Memory):
    """Numbers of float32."""

    kind, dtype = _FLOAT, np.float32

    def read(self, first: Index | int) -> Floats:
        """As many numbers as there are lanes, from ``first`` on."""
        builder = self._code.builder
        return Floats(builder, builder.load(self.address(first), typ=self._code.floats, align=4))

    def spread(self, at: Index | int) -> Floats:
        """One number, in each lane."""
        return self._code.spread(self.one(at))

    def write(self, first: Index | int, numbers: Floats) -> None:
        """Put them from ``first`` on."""
        self._code.builder.store(numbers.value, self.address(first), align=4)

    def put(self, number: Floats) -> None:
        """Put the number of the first lane."""
        one = self._code.builder.extract_element(number.value, _INT(0))
        self._code.builder.store(one, self.address(0), align=4)

    def copy(self, at: Index | int, source: "Array", source_at: Index | int) -> None:
        """Put one number of another array."""
        self._code.builder.store(source.one(source_at), self.address(at), align=4)


class Code:
    """One function being written, of arrays and a number of rows.

    Attributes:
        lanes: numbers in a vector. given: its arrays, by name. rows: the last argument.
    """

    def __init__(
        self, name: str, given: Mapping[str, tuple[type["Array"] | type["Positions"], tuple[int, ...]]]
    ) -> None:
        """``given``: of each array, in the order of the arguments, its kind and the shape of what one index picks."""
        features = cpu_features()
        self._estimates = bool(features.get("avx512f") or features.get("avx2"))
        self.lanes = WIDEST if features.get("avx512f") else 8  # where they are fewer, the compiler splits them
        self.floats, self._ints = ir.VectorType(_FLOAT, self.lanes), ir.VectorType(_INT, self.lanes)
        self._module = ir.Module(name)
        self._module.triple = llvm.get_process_triple()
        signature = ir.FunctionType(ir.VoidType(), [_POINTER] * len(given) + [_INDEX])
        function = ir.Function(self._module, signature, name)
        for argument in function.args[:-1]:
            argument.add_attribute("noalias")
        self.builder = ir.IRBuilder(function.append_basic_block())
        self.given: dict[str, Array | Positions] = {
            name: kind(self, pointer, *row)
            for pointer, (name, (kind, row)) in zip(function.args, given.items(), strict=False)
        }
        self.rows = Index(self.builder, function.args[-1])

    def array(self, name: str) -> Array:
        """One of the arguments."""
        memory = self.given[name]
        if not isinstance(memory, Array):
            raise TypeError(f"{name} holds no float32")
        return memory

    def positions(self, name: str) -> Positions:
        """One of the arguments."""
        memory = self.given[name]
        if not isinstance(memory, Positions):
            raise TypeError(f"{name} holds no positions")
        return memory

    def constant(self, numbers: float | Sequence[float]) -> Floats:
        """The same number in each lane, or one for each."""
        several = [numbers] * self.lanes if isinstance(numbers, float | int) else list(numbers)
        return Floats(self.builder, ir.Constant(self.floats, [float(n) for n in several]))

    def spread(self, number: Any) -> Floats:
        """A number of the compiler's, in each lane."""
        nothing = ir.Constant(self.floats, ir.Undefined)
        one = self.builder.insert_element(nothing, number, _INT(0))
        everywhere = ir.Constant(ir.VectorType(_INT, self.lanes), [0] * self.lanes)
        return Floats(self.builder, self.builder.shuffle_vector(one, nothing, everywhere))

    def number(self, at: Index) -> Floats:
        """A position as a number, in each lane."""
        return self.spread(self.builder.sitofp(at.value, _FLOAT))

    def loop(
        self,
        start: Index | int,
        stop: Index | int,
        state: Sequence[Floats],
        body: Callable[[Index, list[Floats]], Sequence[Floats]],
        step: int = 1,
    ) -> list[Floats]:
        """``body`` for each position from ``start`` up to ``stop``, given what it made of the last; what is left."""
        builder = self.builder
        before, head = builder.block, builder.append_basic_block()
        inside, after = builder.append_basic_block(), builder.append_basic_block()
        builder.branch(head)
        builder.position_at_end(head)
        at = builder.phi(_INDEX)
        at.add_incoming(_index(start), before)
        held = [builder.phi(self.floats) for _ in state]
        for phi, numbers in zip(held, state, strict=True):
            phi.add_incoming(numbers.value, before)
        builder.cbranch(builder.icmp_signed("<", at, _index(stop)), inside, after)
        builder.position_at_end(inside)
        made = body(Index(builder, at), [Floats(builder, phi) for phi in held])
        at.add_incoming(builder.add(at, _INDEX(step)), builder.block)
        for phi, numbers in zip(held, made, strict=True):
            phi.add_incoming(numbers.value, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return [Floats(builder, phi) for phi in held]

    def each(self, start: Index | int, stop: Index | int, body: Callable[[Index], None], step: int = 1) -> None:
        """A loop that hands nothing on."""

        def one(at: Index, _: list[Floats]) -> list[Floats]:
            body(at)
            return []

        self.loop(start, stop, [], one, step)

    def copy(self, units: int, source: Array, into: Array) -> None:
        """Put the first numbers of a row into another; ``units``: padded."""
        self.each(0, units, lambda at: into.write(at, source.read(at)), self.lanes)

    def exp(self, x: Floats) -> Floats:
        """The exponential, see `exp2`."""
        return self.exp2(x * math.log2(math.e))

    def exp2(self, x: Floats) -> Floats:
        """2 to the power of numbers up to 127, to 2e-7 of it; below 2^-100: that. What is no number stays so.

        Beyond 127 it is anything: whoever asks sees to it that there is nothing of the kind.

        Of x = n + f with a whole n, 2^n is a float32's exponent, and 2^f a polynomial (its largest error least: Remez).
        Products with yet smaller numbers would be subnormal, which CPUs compute ten times as slowly.
        """
        x = x.at_least(-100.0)
        shifted = x + _TO_INTEGER
        f = x - (shifted - _TO_INTEGER)
        power = self.constant(_EXP2[-1])
        for factor in _EXP2[-2::-1]:
            power = power * f + factor
        bits = self.builder.shl(self.builder.bitcast(shifted.value, self._ints), self._whole(23))
        scale = self.builder.bitcast(self.builder.add(bits, self._whole(127 << 23)), self.floats)
        return power * Floats(self.builder, scale)

    def log(self, x: Floats) -> Floats:
        """The logarithm of positive numbers, to 1e-7; of what is infinite or no number: no number.

        Of x = m 2^e with m near 1: e log 2, and a polynomial in m - 1 (S. Moshier's Cephes, logf.c).
        """
        bits = self.builder.bitcast(x.value, self._ints)
        halved = self.builder.or_(self.builder.and_(bits, self._whole(0x007FFFFF)), self._whole(0x3F000000))
        exponent = self.builder.sub(self.builder.lshr(bits, self._whole(23)), self._whole(126))
        m = Floats(self.builder, self.builder.bitcast(halved, self.floats))  # from 0.5 to 1
        e = Floats(self.builder, self.builder.sitofp(exponent, self.floats))
        e = m.where("<", math.sqrt(0.5), e - 1.0, e)
        m = m.where("<", math.sqrt(0.5), m + m, m) - 1.0
        power = self.constant(_LOG[0])
        for factor in _LOG[1:]:
            power = power * m + factor
        square = m * m
        y = power * m * square + e * _LOG_2[1] - square * 0.5
        return m + y + e * _LOG_2[0] + (x - x)

    def asinh(self, x: Floats) -> Floats:
        """By logarithm: for small ``x`` it is off by 1e-7, as much as float32 is near 1."""
        size = abs(x)
        found = self.log(size + self.root(size * size + 1.0))
        return x.where("<", 0.0, -found, found)

    def sinh(self, x: Floats) -> Floats:
        """By exponentials; beyond 88 either way, where it is near the end of float32: no number."""
        inside = x.where("<=", 88.0, x, math.nan)
        inside = inside.where(">=", -88.0, inside, math.nan)
        return (self.exp(inside) - self.exp(inside * -1.0)) * 0.5

    def sigmoid(self, x: Floats) -> Floats:
        """1 / (1 + exp(-x)), to 1e-7."""
        return self.inverse(self.exp2((x * -math.log2(math.e)).at_most(80.0)) + 1.0)

    def inverse(self, x: Floats) -> Floats:
        """One over numbers of common size: an estimate and a step of Newton's, in a fifth of a division's time."""
        if not self._estimates:
            return self.constant(1.0) / x
        found = self._estimate("rcp", x)
        return found * (self.constant(2.0) - x * found)

    def root(self, x: Floats) -> Floats:
        """The square root."""
        return Floats(self.builder, self._call(f"llvm.sqrt.v{self.lanes}f32", self.floats, [x.value]))

    def inverse_root(self, x: Floats) -> Floats:
        """One over the square root, likewise."""
        if not self._estimates:
            return self.constant(1.0) / self.root(x)
        found = self._estimate("rsqrt", x)
        return found * (self.constant(1.5) - x * 0.5 * found * found)

    def _estimate(self, of: str, x: Floats) -> Floats:
        arguments, name = [x.value], f"llvm.x86.avx.{of}.ps.256"
        if self.lanes == WIDEST:
            name = f"llvm.x86.avx512.{of}14.ps.512"
            arguments += [self.constant(0.0).value, ir.IntType(16)(-1)]
        return Floats(self.builder, self._call(name, self.floats, arguments))

    def total(self, x: Floats) -> Floats:
        """The sum over lanes, in each lane."""
        arguments = [_FLOAT(0.0), x.value]
        return self.spread(self._call(f"llvm.vector.reduce.fadd.v{self.lanes}f32", _FLOAT, arguments, ("reassoc",)))

    def largest(self, x: Floats) -> Floats:
        """The largest lane, in each lane."""
        name = f"llvm.vector.reduce.fmax.v{self.lanes}f32"
        return self.spread(self._call(name, _FLOAT, [x.value], ("nnan",)))

    def _call(self, name: str, gives: Any, arguments: list[Any], relaxed: tuple[str, ...] = ()) -> Any:
        function = self._module.globals.get(name)
        if function is None:
            function = ir.Function(self._module, ir.FunctionType(gives, [a.type for a in arguments]), name)
        return self.builder.call(function, arguments, fastmath=relaxed)

    def _whole(self, number: int) -> Any:
        return ir.Constant(self._ints, [number] * self.lanes)

    def compile(self) -> "Kernel":
        """Compile it, in some tenths of a second."""
        self.builder.ret_void()
        return Kernel(str(self._module), self._module.name, [type(memory).dtype for memory in self.given.values()])


def _index(at: Index | int) -> Any:
    return at.value if isinstance(at, Index) else _INDEX(at)
