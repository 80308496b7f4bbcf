#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The demonstration with each storage format and each kind of cache: what it proves (it fails otherwise), and what it
says of the format."""

import re
import subprocess
import sys

# Bytes of a row of one head in K (32 elements) and V (96), and the greatest logit error to expect.
STORES = {
    "f16": (2 * 32, 2 * 96, 0.01),
    "bf16": (2 * 32, 2 * 96, 0.1),
    "e4m3": (32, 96, 1),
    "e4m3-row": (32 + 4, 96 + 4, 1),
    "e5m2": (32, 96, 2),
    "int8": (32 + 4, 96 + 4, 0.2),
    "q8_0": (34, 3 * 34, 0.2),
    "nvfp4": (16 + 2, 48 + 6, 3),
}
ELEMENT_BYTES = {"f32": 4, "f16": 2, "bf16": 2}
LAYERS, HEADS = 2, 2
CACHES = {
    "dense": ["--cache-rows", "48"],
    "ring": ["--cache-rows", "17"],
    "paged": ["--cache-rows", "48", "--page-rows", "5", "--prefix-reuse"],
    "slots": ["--cache-rows", "48"],
}


def check_reuse(output, backend, store):
    """Three quarters of the prompts of 24, 16 and 8 tokens, decoded to F32."""
    assert "rows of 36 tokens were gathered and those of 12 were computed: 75.0% of the prefill was saved." in output, output
    kernel, said = re.search(r"(\w+) gathered (\d+) bytes in", output).groups()
    assert kernel.startswith({"cuda": "cuda_gather", "host": "host_gather"}[backend]), output
    assert int(said) == 36 * LAYERS * HEADS * (32 + 96) * ELEMENT_BYTES["f32"], output
    assert f"bit-identical to those of a run that computes the prefix and rounds its rows to {store}." in output, output


def check(decode, backend, arguments, element, store):
    run = subprocess.run([*decode, "--prompt", "24", "--steps", "20", "--batch", "3", "--layers", str(LAYERS),
                          "--backend", backend, "--element", element, "--store", store, *arguments],
                         capture_output=True, text=True, check=False)
    assert run.returncode == 0, (store, arguments, run)
    assert f"bit-identical to those computed without a cache, from rows rounded to {store}." in run.stdout, run.stdout

    k_bytes, v_bytes, greatest_error = STORES[store]
    shown = LAYERS * HEADS * (k_bytes + v_bytes), LAYERS * HEADS * (32 + 96) * ELEMENT_BYTES[element]
    said = re.search(r"A token takes (\d+) bytes of cache with its scales, and would take (\d+) as", run.stdout)
    assert tuple(map(int, said.groups())) == shown, (said.group(), shown)

    error = float(re.search(r"the largest logit error is (\S+),", run.stdout).group(1))
    same, positions = map(int, re.search(r"same at (\d+) of (\d+) positions", run.stdout).groups())
    assert positions == 3 * (20 + 1) and same <= positions, run.stdout
    if store == element:
        assert error == 0 and same == positions, (element, store, error, same)
    else:
        # F16 holds nearly all bits of a BF16 of such a size.
        assert (error > 0 or (element, store) == ("bf16", "f16")) and error < greatest_error, (element, store, error)

    if "--prefix-reuse" in arguments:
        check_reuse(run.stdout, backend, store)

    kernels = re.search(r"by (\w+) and (\w+) hold the same \d+ bytes", run.stdout)
    if backend == "cuda":
        assert kernels.group(1).startswith("cuda_") and kernels.group(2).startswith("host_"), run.stdout
    elif kernels:
        assert kernels.group(1) != kernels.group(2), run.stdout
    else: # A processor may have one kernel only.
        assert "no second kernel" in run.stdout, run.stdout


def check_table(decode, backend):
    """--store all: a row for each format, with the bytes of a token and the same proof."""
    run = subprocess.run([*decode, "--prompt", "24", "--steps", "5", "--batch", "3", "--layers", str(LAYERS),
                          "--backend", backend, "--element", "bf16", "--store", "all"],
                         capture_output=True, text=True, check=False)
    assert run.returncode == 0, run
    assert run.stdout.isascii() and run.stdout.count("\n") < 20 and "\033" not in run.stdout + run.stderr, run
    rows = re.findall(r"^(\S+) +(\d+) +\d+% +(\S+) +(\S+)%   all (\d+) logit vectors bit-identical$", run.stdout,
                      re.MULTILINE)
    assert [row[0] for row in rows] == ["bf16", *STORES], run.stdout # The rows as they are come first.
    for store, token, error, same, positions in rows:
        k_bytes, v_bytes, greatest_error = STORES[store]
        assert int(token) == LAYERS * HEADS * (k_bytes + v_bytes) and int(positions) == 3 * (5 + 1), run.stdout
        assert float(error) < greatest_error and 0 < float(same) <= 100, run.stdout
        assert store != "bf16" or (float(error) == 0 and float(same) == 100), run.stdout
    if backend == "cuda":
        assert "a second kernel stored the same bytes" in run.stdout, run.stdout


def main():
    backend, *decode = sys.argv[1:]
    elements = list(ELEMENT_BYTES)
    runs = 0
    for store in STORES:
        for kind, arguments in CACHES.items():
            check(decode, backend, ["--cache", kind, *arguments, "--layout", ("bhsd", "bshd")[runs // 3 % 2]],
                  elements[runs % 3], store)
            runs += 1
    for element in "f16", "bf16":
        check(decode, backend, ["--cache", "paged", *CACHES["paged"]], element, element)
    check_table(decode, backend)
    print(f"{runs} runs")


if __name__ == "__main__":
    main()
