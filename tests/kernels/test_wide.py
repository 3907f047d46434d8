"""The inner loops for one token, built for this processor and for ones without its instructions: each the formula.

`wide.h` knows nothing of torch, so it is built here in a second, with flags that switch its intrinsics off.
"""

import ctypes
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from layersmith.kernels import native

WRAPPERS = """
#include "halves.h"
#include <cstdio>
using namespace layersmith;
extern "C" {
float floats(const float* row, const float* x, int64_t n) { return dot_wide(row, x, n); }
int32_t whole(const int8_t* codes, const int8_t* q, int64_t n) { return dot_int8(codes, q, n); }
float bytes(const uint8_t* c, const uint16_t* s, const uint16_t* z, const float* x, int64_t n, int64_t group) {
  return dot_bytes(c, s, z, x, n, group);
}
float halves(const uint8_t* c, const uint16_t* s, const uint16_t* z, const float* x, int64_t n, int64_t group) {
  float apart[4096];
  halves_apart(x, apart, n);
  return dot_halves(c, s, z, apart, n, group);
}
float halves_int8(const uint8_t* c, const uint16_t* s, const uint16_t* z, const float* x, int64_t n, int64_t group) {
  int8_t q[4096];
  float step[128], sum[128];
  round_groups(x, n, group, q, step, sum);
  return dot_halves_int8(c, s, z, q, step, sum, n, group);
}
void exponentials(const float* x, float* y) {
  for (int64_t i = 0; i < 16; i += WIDE) {
    const Wide v = exp_of_negative(wide(x + i));
    std::memcpy(y + i, &v, sizeof v);
  }
}
float half(uint16_t bits) { return from_half(bits); }
}
"""
FLAGS = {"this processor": "-march=native", "no vectors": "-march=x86-64", "AVX2 alone": "-march=x86-64-v3"}
if platform.machine() != "x86_64":
    FLAGS = {"this processor": "-march=native"}


@pytest.fixture(scope="module", params=FLAGS)
def loops(request, tmp_path_factory):
    if shutil.which("c++") is None:
        pytest.skip("there is no C++ compiler")
    if request.param == "AVX2 alone" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    folder = tmp_path_factory.mktemp("wide")
    (folder / "wrappers.cpp").write_text(WRAPPERS)
    command = ["c++", "-std=c++17", "-O2", FLAGS[request.param], "-Wno-psabi", "-shared", "-fPIC"]
    include = ["-I", str(native.FOLDER / "shared")]
    subprocess.run([*command, *include, "-o", str(folder / "wide.so"), str(folder / "wrappers.cpp")], check=True)
    library = ctypes.CDLL(str(folder / "wide.so"))
    for name in ("floats", "bytes", "halves", "halves_int8", "half"):
        getattr(library, name).restype = ctypes.c_float
    return library


def at(array):
    return array.ctypes.data_as(ctypes.c_void_p)


@pytest.mark.parametrize("size", [1, 15, 16, 63, 64, 65, 576, 1001])
def test_product_of_floats(loops, size):
    rng = np.random.default_rng(size)
    row, x = (rng.standard_normal(size).astype(np.float32) for _ in range(2))
    exact = row.astype(float) @ x.astype(float)
    bound = 1e-6 * np.abs(row.astype(float) * x).sum()
    assert loops.floats(at(row), at(x), ctypes.c_int64(size)) == pytest.approx(exact, abs=bound)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 128, 576, 1001])
def test_product_of_whole_numbers_is_exact(loops, size):
    rng = np.random.default_rng(size)
    codes, q = (rng.integers(-127, 128, size, dtype=np.int8) for _ in range(2))
    extremes = [(-127, 127), (-127, -127), (127, 127), (-128, 127), (-128, -127), (0, 127)]
    full = [tuple(np.full(size, value, np.int8) for value in pair) for pair in extremes]
    for a, b in ((codes, q), *full):
        assert loops.whole(at(a), at(b), ctypes.c_int64(size)) == a.astype(int) @ b.astype(int)


@pytest.mark.parametrize(("bits", "group", "groups"), [(8, 16, 3), (8, 64, 9), (4, 32, 1), (4, 32, 5), (4, 64, 9)])
def test_product_with_packed_codes(loops, bits, group, groups):
    rng = np.random.default_rng(group)
    size = group * groups
    codes = rng.integers(0, 2**bits, size, dtype=np.uint8)
    scale, zero = (rng.uniform(0.01, 9, groups).astype(np.float16) for _ in range(2))
    x = rng.standard_normal(size).astype(np.float32)
    stored = codes if bits == 8 else codes[0::2] | codes[1::2] << 4
    product = loops.bytes if bits == 8 else loops.halves
    terms = (codes - np.repeat(zero.astype(float), group)) * np.repeat(scale.astype(float), group) * x
    got = product(at(stored), at(scale), at(zero), at(x), ctypes.c_int64(size), ctypes.c_int64(group))
    assert got == pytest.approx(terms.sum(), abs=1e-6 * np.abs(terms).sum())


@pytest.mark.parametrize(("group", "groups"), [(32, 1), (32, 8), (32, 18), (64, 9), (128, 5)])
def test_product_of_packed_codes_with_whole_numbers(loops, group, groups):
    rng = np.random.default_rng(group * groups)
    size = group * groups
    codes = rng.integers(0, 16, size, dtype=np.uint8)
    codes[:group] = 15  # the largest sums there are
    scale, zero = (rng.uniform(0.01, 9, groups).astype(np.float16) for _ in range(2))
    x = (rng.standard_normal((groups, group)) * rng.uniform(0.1, 50, (groups, 1))).astype(np.float32)
    x[0] = 3.0
    x[-1] = -2.0 if groups > 1 else 3.0
    step = np.abs(x).max(1, keepdims=True).astype(float) / 127
    rounded = np.rint(x.astype(float) / step) * step
    weight = (codes.reshape(groups, group) - zero.astype(float)[:, None]) * scale.astype(float)[:, None]
    terms, stored = weight * rounded, codes[0::2] | codes[1::2] << 4
    got = loops.halves_int8(at(stored), at(scale), at(zero), at(x), ctypes.c_int64(size), ctypes.c_int64(group))
    assert got == pytest.approx(terms.sum(), abs=2e-6 * np.abs(terms).sum())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_whole_numbers_do_not_hide_what_is_not_finite(loops, value):
    codes, x = np.full(32, 0x53, np.uint8), np.ones(64, np.float32)
    scale, zero = np.ones(2, np.float16), np.ones(2, np.float16)
    size = ctypes.c_int64(64), ctypes.c_int64(32)
    assert np.isfinite(loops.halves_int8(at(codes), at(scale), at(zero), at(x), *size))
    x[40] = value
    assert not np.isfinite(loops.halves_int8(at(codes), at(scale), at(zero), at(x), *size))
    assert loops.halves_int8(at(codes), at(scale), at(zero), at(np.zeros(64, np.float32)), *size) == 0


def test_exponentials_of_what_is_not_positive(loops):
    for start in (0.0, -0.3, -5.0, -60.0, -80.0):
        x = (start - np.linspace(0, 6.9, 16)).astype(np.float32)
        y = np.zeros(16, np.float32)
        loops.exponentials(at(x), at(y))
        np.testing.assert_allclose(y, np.exp(x.astype(float)), rtol=3e-7)
    far = np.array([-87.5, -1e4, -np.inf, *[0.0] * 13], np.float32)
    loops.exponentials(at(far), at(y))
    assert y.tolist() == [0.0] * 3 + [1.0] * 13


def test_every_finite_float16(loops):
    bits = np.arange(2**16, dtype=np.uint16)
    expected = bits.view(np.float16).astype(np.float32)
    for b in (*bits[::37].tolist(), 0, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0x8001, 0xFBFF, 0xFC00):
        got = loops.half(ctypes.c_uint16(b))
        assert got == expected[b] or (np.isnan(got) and np.isnan(expected[b]))
