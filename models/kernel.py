"""A function that LLVM compiled for the CPU at hand (llvmlite), and memory for it."""

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

from models.network_shape import WIDEST

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()


def cpu_features() -> Any:
    """What this CPU can do, by LLVM's names."""
    return llvm.get_host_cpu_features()


def aligned(*shape: int) -> NDArray[np.float32]:
    """Zeros that begin with a line of the cache: vectors that lie in two take twice as long."""
    size = math.prod(shape)
    memory = np.zeros(size + WIDEST, np.float32)
    first = -memory.ctypes.data % 64 // memory.itemsize
    return memory[first : first + size].reshape(shape)


class Kernel:
    """A compiled function. Others' Python code runs meanwhile, and any number of threads may call it."""

    def __init__(self, code: str, name: str, dtypes: Sequence[type[np.generic]]) -> None:
        """``dtypes``: of the arrays."""
        self._dtypes = [np.dtype(dtype) for dtype in dtypes]
        module = llvm.parse_assembly(code)
        module.verify()
        features = cpu_features()
        features["prefer-256-bit"] = False  # else the widest registers are used by halves
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3
        )
        passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
        passes.getModulePassManager().run(module, passes)
        self._engine = llvm.create_mcjit_compiler(module, machine)  # it owns the code
        self._engine.finalize_object()
        signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(dtypes), ctypes.c_int64)
        self._function = signature(self._engine.get_function_address(name))

    def __call__(self, *arrays: NDArray[np.float32] | NDArray[np.int64], rows: int) -> None:
        """Run it.

        Raises:
            ValueError: an array is not contiguous, or of another type. Its size is not looked at.
        """
        for array, dtype in zip(arrays, self._dtypes, strict=True):
            if array.dtype != dtype or not array.flags.c_contiguous:
                raise ValueError(
                    f"an array of {array.dtype} and strides {array.strides}, not one of {dtype} in a piece"
                )
        self._function(*(array.ctypes.data for array in arrays), rows)
