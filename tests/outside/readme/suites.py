#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""CONTRIBUTING.md names every suite of tests that there is, and, of a whole build, no other."""

import json
import re
import sys

# Only built with CUDA.
WITH_CUDA = {"device", "kernels"}


def main():
    contributing, build, *whole = sys.argv[1:]
    with open(contributing, encoding="utf-8") as file:
        rows = re.findall(r"^\| (`.*?) \|", re.search(r"\| suite \|.*?\n\n", file.read(), re.DOTALL).group(), re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(rows)))
    with open(f"{build}/meson-info/intro-tests.json", encoding="utf-8") as file:
        there = {suite.split(":")[-1] for test in json.load(file) for suite in test["suite"]}
    assert there <= named, f"not named: {there - named}"
    # A build with sanitizers, or without benchmarks, has fewer.
    assert not whole or named - there <= WITH_CUDA, f"named, but not there: {named - there}"
    print(f"{len(there)} suites")


if __name__ == "__main__":
    main()
