#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a test of the Python package with an installed copy of the library; skips it where a module that it needs is
absent."""

import importlib.util
import os
import subprocess
import sys
import tempfile

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(FOLDER, "../../consumers"))
from installation import Installation, skip  # pylint: disable=wrong-import-position


def main():
    test, needs, build, sanitizers, *meson = sys.argv[1:]
    if sanitizers != "none":
        skip("a program without the sanitizers' runtime cannot use a library with them")
    absent = [module for module in needs.split() if importlib.util.find_spec(module) is None]
    if absent:
        skip(f"{sys.executable} has no {' and no '.join(absent)}")
    with tempfile.TemporaryDirectory() as folder:
        environment = Installation(meson, build, folder).environment
        # As if the package had been copied to the user's modules. The source tree stays as it is.
        environment |= {"PYTHONPATH": FOLDER, "PYTHONDONTWRITEBYTECODE": "1"}
        sys.exit(subprocess.run([sys.executable, os.path.join(FOLDER, test)], env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
