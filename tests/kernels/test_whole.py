"""The integer product of processors without an instruction for it, built alone with AVX2: exact everywhere."""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from layersmith.kernels import native

WRAPPERS = """
#include "whole.h"
using namespace layersmith;
extern "C" {
int64_t width_of(int64_t in) { return filled_up(in); }
void panel_of(const int8_t* codes, int64_t in, int64_t rows, int16_t* panel) { lay_out(codes, in, rows, panel); }
void products(int64_t tokens, const int16_t* q, int64_t width, const int16_t* panel, int32_t* sums) {
  sums_of_few(tokens, q, width, panel, reinterpret_cast<int32_t(*)[PANEL]>(sums));
}
}
"""

BUILDS = shutil.which("c++") is not None and platform.machine() == "x86_64"
pytestmark = pytest.mark.skipif(
    not BUILDS or "avx2" not in Path("/proc/cpuinfo").read_text(), reason="needs a C++ compiler and AVX2"
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    (folder / "wrappers.cpp").write_text(WRAPPERS)
    command = ["c++", "-std=c++17", "-O2", "-march=x86-64-v3", "-Wno-psabi", "-shared", "-fPIC"]
    include = ["-I", str(native.FOLDER / "shared")]
    subprocess.run([*command, *include, "-o", str(folder / "whole.so"), str(folder / "wrappers.cpp")], check=True)
    library = ctypes.CDLL(str(folder / "whole.so"))
    library.width_of.restype = ctypes.c_int64
    return library


def at(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def laid_out(whole, codes):
    """int16 (width / 2, 16, 2) of int8 codes (rows, in), whose memory ends where they end."""
    width = whole.width_of(ctypes.c_int64(codes.shape[1]))
    panel = np.full((width // 2, 16, 2), 99, np.int16)
    whole.panel_of(at(codes), ctypes.c_int64(codes.shape[1]), ctypes.c_int64(len(codes)), at(panel))
    return panel


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 16])
@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 33, 576])
def test_a_panel_is_the_rows_side_by_side_and_zeros(whole, rows, width):
    codes = np.random.default_rng(width).integers(-128, 128, (rows, width), dtype=np.int8)
    expected = np.zeros((16, whole.width_of(ctypes.c_int64(width))), np.int16)
    expected[:rows, :width] = codes
    panel = laid_out(whole, codes)
    np.testing.assert_array_equal(panel, expected.reshape(16, -1, 2).transpose(1, 0, 2))


@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("width", [16, 32, 576, 8192])
def test_sums_are_exact(whole, tokens, width):
    rng = np.random.default_rng(tokens)
    codes, q = rng.integers(-127, 128, (16, width)), rng.integers(-127, 128, (tokens, width))
    codes[3], q[-1] = -127, 127  # the largest sum there is
    panel, given = laid_out(whole, codes.astype(np.int8)), q.astype(np.int16)
    sums = np.zeros((tokens, 16), np.int32)
    whole.products(ctypes.c_int64(tokens), at(given), ctypes.c_int64(width), at(panel), at(sums))
    np.testing.assert_array_equal(sums, q @ codes.T)
