#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The demonstration with each style of rotary embedding and each kind of cache: what it proves (it fails otherwise),
that the library rotates Q and K, and that each style and no other gives its text."""

import re
import subprocess
import sys

# The ring goes round more than once: positions go to 43. A prompt has more rows than the ring. With 3 layers, the Q of
# those that it does not keep matters.
CACHES = {
    "dense": ["--cache-rows", "48"],
    "ring": ["--cache-rows", "17"],
    "paged": ["--cache-rows", "48", "--page-rows", "5", "--prefix-reuse"],
    "slots": ["--cache-rows", "48"],
}
STYLES = "half", "interleaved", "none"


def text_of(decode, backend, element, kind, style):
    run = subprocess.run([*decode, "--prompt", "24", "--steps", "20", "--batch", "3", "--layers", "3", "--backend",
                          backend, "--element", element, "--rotary", style, "--cache", kind, *CACHES[kind]],
                         capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "are bit-identical to those computed without a cache." in run.stdout, run
    kernel = re.search(r"kernel (\w+)", run.stdout).group(1)
    assert kernel.startswith(backend) and ("_rotate" in kernel) == (style != "none"), run.stdout
    return run.stdout.splitlines()[0]


def main():
    backend, *decode = sys.argv[1:]
    for element in "f32", "f16", "bf16":
        texts = {kind: [text_of(decode, backend, element, kind, style) for style in STYLES] for kind in CACHES}
        assert texts["dense"] == texts["paged"] == texts["slots"], texts
        assert all(len(set(of_kind)) == len(STYLES) for of_kind in texts.values()), texts


if __name__ == "__main__":
    main()
