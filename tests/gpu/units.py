"""Each group of machine instructions of ``cpp/cuda/ptx.cuh`` and ``hopper.cuh`` on the card, against what the emulation of the tests gives.

Compiles ``tests/cuda/units.cuh`` with NVRTC and launches it with the driver, both by ctypes, and compares with ``tests/cuda/units.txt``.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import importlib.util
import pathlib
import sys
from typing import Any

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
HEADERS = ("call.cuh", "hopper.cuh", "hopper_tile.cuh", "numbers.cuh", "ptx.cuh")
CALL_BYTES, RESULTS_AT = 168, 32
COMPUTE_CAPABILITY = (75, 76)
MAP_BYTES, MOST_MAPS = 128, 2


@dataclasses.dataclass
class Unit:
    """A kernel of ``units.cuh`` and the words that it writes on the emulated machine."""

    name: str
    words: int  # of each thread
    threads: int
    shared: int  # bytes
    map: list[int] = dataclasses.field(default_factory=list)  # of a tensor map, as tests/cuda/units.rs lists them
    wanted: list[int] = dataclasses.field(default_factory=list)


def expected() -> list[Unit]:
    """The committed units."""
    found: list[Unit] = []
    for line in (REPOSITORY / "tests/cuda/units.txt").read_text().splitlines():
        if line.startswith("Unit"):
            name, *sizes = line.rsplit(" ", 3)
            found.append(Unit(name, *map(int, sizes)))
        elif line.startswith("map "):
            found[-1].map = [int(number) for number in line.split()[1:]]
        elif not line.startswith("#"):
            found[-1].wanted.extend(int(word, 16) for word in line.split())
    return found


def nvrtc() -> ctypes.CDLL:
    """CUDA's compiler, from NVIDIA's Python packages or wherever the system looks."""
    spec = importlib.util.find_spec("nvidia")
    folders = [pathlib.Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    names = [str(path) for folder in folders for path in sorted(folder.glob("*/lib/libnvrtc.so.1?"), reverse=True)]
    for name in (*names, "libnvrtc.so.13", "libnvrtc.so.12"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise SystemExit("libnvrtc was not found: install nvidia-cuda-nvrtc")


def check(what: str, code: int) -> None:
    """Ends the program where CUDA says no."""
    if code:
        raise SystemExit(f"{what}: error {code} of CUDA")


def compiled(compiler: ctypes.CDLL, unit: Unit, architecture: str) -> bytes:
    """The cubin of one unit."""
    name = unit.name
    folders = (REPOSITORY / "cpp/cuda", REPOSITORY / "tests/cuda")
    texts = {
        header: (folder / header).read_bytes()
        for folder, headers in zip(folders, (HEADERS, ("units.cuh",)), strict=True)
        for header in headers
    }
    count, program, size = len(texts), ctypes.c_void_p(), ctypes.c_size_t()
    maps, arguments = (", const __grid_constant__ TensorMaps maps", "call, maps.of") if unit.map else ("", "call")
    bounds = f"__launch_bounds__({unit.threads}, 1)"  # without both numbers setmaxnreg is ignored
    source = f'#include "units.cuh"\nextern "C" __global__ void {bounds} unit(const Call call{maps}) {{ {name}::Run({arguments}); }}\n'
    strings = lambda values: (ctypes.c_char_p * len(values))(*values)
    names = strings([header.encode() for header in texts])
    check(
        "NVRTC", compiler.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"units.cu", count, strings([*texts.values()]), names)
    )
    options = strings([f"--gpu-architecture={architecture}".encode(), b"--std=c++17", b"-default-device"])
    code = compiler.nvrtcCompileProgram(program, len(options), options)
    compiler.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    compiler.nvrtcGetProgramLog(program, log)
    check(f"{name}: {log.value.decode()}", code)
    check("NVRTC", compiler.nvrtcGetCUBINSize(program, ctypes.byref(size)))
    cubin = ctypes.create_string_buffer(size.value)
    check("NVRTC", compiler.nvrtcGetCUBIN(program, cubin))
    return cubin.raw


class Card:
    """The first GPU, in a context of its own."""

    def __init__(self) -> None:
        self.driver: Any = ctypes.CDLL("libcuda.so.1")
        device, context, values = ctypes.c_int(), ctypes.c_void_p(), (ctypes.c_int(), ctypes.c_int())
        check("cuInit", self.driver.cuInit(0))
        check("cuDeviceGet", self.driver.cuDeviceGet(ctypes.byref(device), 0))
        for value, attribute in zip(values, COMPUTE_CAPABILITY, strict=True):
            check("cuDeviceGetAttribute", self.driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device))
        major, minor = (value.value for value in values)
        self.architecture = f"sm_{major}{minor}" + ("a" if major >= 9 else "")
        check("cuDevicePrimaryCtxRetain", self.driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
        check("cuCtxSetCurrent", self.driver.cuCtxSetCurrent(context))

    def encoded(self, numbers: list[int], start: int) -> ctypes.Array[ctypes.c_uint8]:
        """What the driver makes of a tensor map, aligned as a parameter has to be, with the memory that holds it."""
        longs, words = ctypes.c_uint64 * 3, ctypes.c_uint32 * 3
        address, dims, strides = start + numbers[0], longs(*numbers[1:4]), longs(*numbers[4:6])
        box, steps, (dtype, rank, *modes) = words(*numbers[6:9]), words(*numbers[9:12]), numbers[12:]
        memory = (ctypes.c_uint8 * (MAP_BYTES * (MOST_MAPS + 1)))()
        aligned = (ctypes.c_uint8 * (MAP_BYTES * MOST_MAPS)).from_buffer(memory, -ctypes.addressof(memory) % MAP_BYTES)
        encode = self.driver.cuTensorMapEncodeTiled
        check("cuTensorMapEncodeTiled", encode(aligned, dtype, rank, ctypes.c_void_p(address), dims, strides, box, steps, *modes))
        return aligned

    def run(self, cubin: bytes, unit: Unit) -> list[int]:
        """The words that all threads write."""
        module, function, memory = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
        half = unit.threads * unit.words
        data = (ctypes.c_uint32 * (2 * half))(*[0] * half, *range(half))
        check("cuModuleLoadData", self.driver.cuModuleLoadData(ctypes.byref(module), cubin))
        check("cuModuleGetFunction", self.driver.cuModuleGetFunction(ctypes.byref(function), module, b"unit"))
        check("cuMemAlloc", self.driver.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(ctypes.sizeof(data))))
        check("cuMemcpyHtoD", self.driver.cuMemcpyHtoD_v2(memory, data, ctypes.c_size_t(ctypes.sizeof(data))))
        call = (ctypes.c_uint8 * CALL_BYTES)()
        ctypes.memmove(ctypes.addressof(call) + RESULTS_AT, ctypes.byref(memory), 8)
        maps = self.encoded(unit.map, memory.value) if unit.map else call
        arguments = (ctypes.c_void_p * 2)(ctypes.addressof(call), ctypes.addressof(maps))
        launched = self.driver.cuLaunchKernel(function, 1, 1, 1, unit.threads, 1, 1, unit.shared, None, arguments, None)
        check("cuLaunchKernel", launched)
        check("cuCtxSynchronize", self.driver.cuCtxSynchronize())
        check("cuMemcpyDtoH", self.driver.cuMemcpyDtoH_v2(data, memory, ctypes.c_size_t(ctypes.sizeof(data))))
        check("cuMemFree", self.driver.cuMemFree_v2(memory))
        return list(data[:half])


def main() -> int:
    """Prints a line for each unit; the exit code is 1 where the card and the emulation differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compile-only", metavar="ARCHITECTURE", help="for a machine without a GPU")
    architecture = parser.parse_args().compile_only
    if architecture:
        count = len([compiled(nvrtc(), unit, architecture) for unit in expected()])
        print(f"NOT RUN: {count} groups of instructions are compiled for {architecture}; to run them needs a GPU")
        return 0
    card, compiler, differ = Card(), nvrtc(), 0
    for unit in expected():
        if unit.name.startswith("UnitHopper") and card.architecture != "sm_90a":
            print(f"{unit.name:24} not on {card.architecture}")
            continue
        found, wanted = card.run(compiled(compiler, unit, card.architecture), unit), unit.wanted
        wrong = [i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b]
        differ += bool(wrong)
        detail = "as emulated"
        if wrong:
            thread, word = divmod(wrong[0], unit.words)
            detail = f"{len(wrong)} words differ, first thread {thread} word {word}: {found[wrong[0]]:08x}, emulated {wanted[wrong[0]]:08x}"
        print(f"{unit.name:24} {detail}")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
