#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the demonstration cannot work on, it refuses: a sentence on stderr, nothing on stdout, and an exit code of 1."""

import os
import subprocess
import sys
import tempfile


def check(decode, arguments, words):
    run = subprocess.run([decode, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 1, (arguments, run)
    assert run.stdout == "", (arguments, run)
    assert words in run.stderr, (arguments, run)


def main():
    decode = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        empty = os.path.join(folder, "empty")
        open(empty, "wb").close()
        text = os.path.join(folder, "text")
        with open(text, "w", encoding="ascii") as file:
            file.write("a text of some length, to be cut into prompts. " * 9)
        check(decode, [os.path.join(folder, "missing")], "No such file")
        check(decode, [folder], "directory")
        check(decode, [empty], "empty")
        for kind in "dense", "paged", "slots":
            check(decode, [text, "--cache", kind, "--steps", "8", "--prompt", "30", "--cache-rows", "20"],
                  "--cache-rows is 20")
        check(decode, [text, "--cache", "ring", "--sink", "8", "--cache-rows", "8"], "--sink is 8")
        check(decode, [text, "--cache", "paged", "--page-rows", "0"], "--page-rows")
        check(decode, [text, "--cache", "heap"], "--cache")
        for kind in "dense", "ring", "slots":
            check(decode, [text, "--cache", kind, "--prefix-reuse"], f"needs --cache paged, but --cache is {kind}")
        check(decode, [text, "--cache", "paged", "--prompt", "1", "--prefix-reuse"], "a prefix and the rest")
        check(decode, [text, "--cache", "paged", "--prefix-reuse", "--store", "all"], "needs one format")
        check(decode, [text, "--store", "q9"], "--store")
        check(decode, [text, "--store", "int8", "--element", "f64", "--rotary", "none"], "k_storage->type")
        check(decode, [text, "--rotary", "whole"], "--rotary")
        for style in "half", "interleaved":
            check(decode, [text, "--element", "f64", "--rotary", style], f"needs --rotary none, but --rotary is {style}")
        check(decode, [text, "--seed", str(1 << 64)], "--seed")
    one_byte = tempfile.NamedTemporaryFile(delete=False)
    one_byte.write(b"x")
    one_byte.close()
    run = subprocess.run([decode, one_byte.name, "--steps", "3"], capture_output=True, text=True, check=False)
    os.unlink(one_byte.name)
    assert run.returncode == 0 and "bit-identical" in run.stdout, run


if __name__ == "__main__":
    main()
