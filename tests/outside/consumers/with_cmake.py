#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An installed copy serves CMake projects, wherever it lies."""

import shutil
import sys
import tempfile

from installation import Installation, skip
from users import use_cmake


def main():
    build, source, _, version, sanitizers, *meson = sys.argv[1:]
    if sanitizers != "none":
        skip("a program without the sanitizers' runtime cannot use a library with them")
    if not shutil.which("cmake"):
        skip("cmake is missing")
    with tempfile.TemporaryDirectory() as folder:
        use_cmake(Installation(meson, build, folder), source, version, folder)


if __name__ == "__main__":
    main()
