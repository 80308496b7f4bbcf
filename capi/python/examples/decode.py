# SPDX-License-Identifier: Apache-2.0
"""Four steps of decoding for two samples of different lengths, with NumPy: pip install numpy"""

import numpy

import kvappend

BATCH, HEADS, ROWS, DIM = 2, 2, 8, 32
Q8_0 = kvappend.Storage.preset(kvappend.Preset.Q8_0)  # 32 elements in 34 bytes, as llama.cpp has them

random = numpy.random.default_rng(1)
lengths = numpy.array([3, 0])  # sample 0 has three rows in the cache, and sample 1 none
caches = {"k_cache": numpy.zeros((BATCH, HEADS, ROWS, DIM), numpy.float32),  # K is stored as it comes
          "v_cache": numpy.zeros((BATCH, HEADS, ROWS, DIM), numpy.int8),  # V in 8 bits
          "v_scales": numpy.zeros((BATCH, HEADS, ROWS, 1), numpy.float16), "v_storage": Q8_0}

for step in range(4):
    k_new, v_new = random.standard_normal((2, BATCH, HEADS, 1, DIM), numpy.float32)
    kvappend.append(k_new=k_new, v_new=v_new, cache_offsets=lengths, **caches)
    lengths += 1
    print(f"step {step}: the samples have {lengths[0]} and {lengths[1]} rows")

# A gather reads rows and decodes them: the last row of each sample, which the last step wrote.
k_out, v_out = numpy.empty((2, BATCH, HEADS, 1, DIM), numpy.float32)
kvappend.gather(k_out=k_out, v_out=v_out, cache_offsets=lengths - 1, **caches)
print("K is the same, bit for bit:", k_out.tobytes() == k_new.tobytes())
print(f"V took {(DIM + 2) / (4 * DIM):.0%} of the bytes, and its largest error is {abs(v_out - v_new).max():.4f}")
