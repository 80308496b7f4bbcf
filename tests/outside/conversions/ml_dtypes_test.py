#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The codes of all numbers of F16 and BF16, of random floats and around every boundary of every type are those of NumPy
and of ml_dtypes. Where the header at kvappend_storage differs from these on purpose, they are as it says: NaN becomes
one NaN, or 0 in a type without NaN, and E4M3, E5M2, E2M1 and all scales are at most the greatest finite number."""

import importlib
import subprocess
import sys

SKIPPED = 77

try:
    np = importlib.import_module("numpy")
    ml_dtypes = importlib.import_module("ml_dtypes")
    TYPES = {"F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16),
             "E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "E5M2": np.dtype(ml_dtypes.float8_e5m2),
             "E2M1": np.dtype(ml_dtypes.float4_e2m1fn)}
    UE8M0 = np.dtype(ml_dtypes.float8_e8m0fnu)
except (ImportError, AttributeError) as absent:
    print(f"skipped: {sys.executable} has no ml_dtypes with the types of 4 bits and of scales, which it has from 0.5 "
          f"on: {absent}")
    sys.exit(SKIPPED)

BITS = {"F16": 16, "BF16": 16, "E4M3": 8, "E5M2": 8, "E2M1": 4}
NAN = {"F16": 0x7fff, "BF16": 0x7fff, "E4M3": 0x7f, "E5M2": 0x7f, "E2M1": 0}
SATURATES = ("E4M3", "E5M2", "E2M1")


def of_library(function, numbers):
    """What the program `codes` makes of an array of 32-bit numbers."""
    done = subprocess.run([sys.argv[1], *function.split()], input=numbers.tobytes(), stdout=subprocess.PIPE, check=True)
    return np.frombuffer(done.stdout, np.uint32)


def expect(what, numbers, found, expected):
    """All are the same; else the first that is not is told."""
    assert found.shape == expected.shape == numbers.shape, what
    (different,) = np.nonzero(found != expected)
    if different.size > 0:
        i = different[0]
        sys.exit(f"{what} of {numbers[i]!r}: found {found[i]:#x}, expected {expected[i]:#x}; {different.size} of "
                 f"{numbers.size} differ")
    print(f"{what}: {numbers.size} are the same")


def numbers_of(dtype, bits):
    """The number of each code."""
    codes = np.arange(1 << bits, dtype=np.uint16 if bits == 16 else np.uint8)
    return codes.view(dtype).astype(np.float32)


def around(numbers):
    """The numbers as floats, and the floats next to them."""
    numbers = numbers.astype(np.float32)
    infinity = np.float32(np.inf)
    return np.concatenate([numbers, np.nextafter(numbers, -infinity), np.nextafter(numbers, infinity)])


def boundaries(numbers):
    """The floats around all finite numbers of a type, and around the middles of adjacent ones."""
    finite = np.unique(numbers[np.isfinite(numbers)].astype(np.float64))
    greatest, step = finite[-1], finite[-1] - finite[-2]
    middles = (finite[1:] + finite[:-1]) / 2
    # The number that would be next, and the middle before it.
    ends = np.array([greatest + step / 2, greatest + step])
    return np.concatenate([around(part) for part in (finite, middles, ends, -ends)])


def inputs(random):
    """All floats to try."""
    parts = [numbers_of(TYPES["F16"], 16), numbers_of(TYPES["BF16"], 16)]
    parts += [boundaries(numbers_of(dtype, BITS[name])) for name, dtype in TYPES.items()]
    parts += [boundaries(np.arange(-(1 << bits - 1), 1 << bits - 1)) for bits in (4, 8)]
    parts.append(around(np.ldexp(np.float32(1), np.arange(-149, 128))))
    parts.append(random.integers(0, 1 << 32, 1000000, np.uint32).view(np.float32))
    # The exponents at which small types have numbers.
    parts.append(np.ldexp(random.uniform(-1, 1, 1000000), random.integers(-26, 18, 1000000)).astype(np.float32))
    payloads = np.array([0x7f800001, 0x7fbfffff, 0x7fc00000, 0x7fd55555, 0x7fffe000, 0x7fffffff], np.uint32)
    parts += [payloads.view(np.float32), (payloads | 0x80000000).view(np.float32)]
    return np.concatenate(parts)


def check_decoding(name):
    dtype = UE8M0 if name == "UE8M0" else TYPES[name]
    bits = 8 if name == "UE8M0" else BITS[name]
    numbers = numbers_of(dtype, bits)
    codes = np.arange(1 << bits, dtype=np.uint32)
    found = of_library(f"decode {name}", codes)
    # NaN may have any bits, because every conversion ends with an encoding, which gives one NaN.
    is_nan = np.isnan(numbers) & np.isnan(found.view(np.float32))
    expected = np.where(is_nan, found, numbers.view(np.uint32))
    expect(f"decode {name}", codes, found, expected)


def codes_of(name, numbers, saturates):
    """The codes of floats, with the differences on purpose."""
    converted = numbers.astype(TYPES[name])
    codes = converted.view(np.uint16 if BITS[name] == 16 else np.uint8).astype(np.uint32)
    if saturates:
        table = numbers_of(TYPES[name], BITS[name])
        greatest = np.flatnonzero(table == table[np.isfinite(table)].max())[0]
        is_beyond = ~np.isfinite(converted.astype(np.float32)) & ~np.isnan(numbers)
        codes = np.where(is_beyond, greatest | np.signbit(numbers) << BITS[name] - 1, codes)
    return np.where(np.isnan(numbers), NAN[name], codes)


def integers_of(bits, zero, half_away, numbers):
    limited = np.clip(np.where(np.isnan(numbers), 0, numbers), -(1 << bits - 1), (1 << bits - 1) - 1).astype(np.float64)
    rounded = np.trunc(limited + np.copysign(0.5, limited)) if half_away else np.rint(limited)
    return (rounded.astype(np.int64) + zero & (1 << bits) - 1).astype(np.uint32)


def check_encoding(numbers):
    for name in TYPES:
        found = of_library(f"encode {name}", numbers)
        expect(f"encode {name}", numbers, found, codes_of(name, numbers, name in SATURATES))
    for name, bits, zero in ("INT8", 8, 0), ("INT4", 4, 8):
        for half_away in (False, True):
            function = f"encode {name}" + half_away * " half away"
            expect(function, numbers, of_library(function, numbers), integers_of(bits, zero, half_away, numbers))
    as_floats = np.where(np.isnan(numbers), np.uint32(0x7fffffff), numbers.view(np.uint32))
    expect("encode F32", numbers, of_library("encode F32", numbers), as_floats)


def check_scales(numbers):
    scales = np.abs(numbers[~np.isnan(numbers)])
    for name in ("F16", "E4M3"):
        expect(f"round {name}", scales, of_library(f"round {name}", scales), codes_of(name, scales, True))
    most = np.finfo(np.float32).max
    expect("round F32", scales, of_library("round F32", scales), np.minimum(scales, most).view(np.uint32))
    # The least power of two that is not less, in the table of ml_dtypes, which itself rounds to the nearest.
    powers = numbers_of(UE8M0, 8)[:-1]
    up = np.minimum(np.searchsorted(powers, scales), powers.size - 1).astype(np.uint32)
    expect("round UE8M0", scales, of_library("round UE8M0", scales), up)
    expect("round F32 power of two", scales, of_library("round F32 power of two", scales), powers[up].view(np.uint32))
    exact = powers.astype(UE8M0).view(np.uint8).astype(np.uint32)
    expect("round UE8M0, of its own numbers", powers, of_library("round UE8M0", powers), exact)


def main():
    # NumPy and ml_dtypes warn of overflows and of NaN.
    with np.errstate(all="ignore"):
        numbers = inputs(np.random.default_rng(13))
        for name in [*TYPES, "UE8M0"]:
            check_decoding(name)
        check_encoding(numbers)
        check_scales(numbers)
    print(f"NumPy {np.__version__}, ml_dtypes {ml_dtypes.__version__}")


if __name__ == "__main__":
    main()
