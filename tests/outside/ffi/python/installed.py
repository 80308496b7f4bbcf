#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs a test of the Python package with an installed copy of the library; skips it where a package that it needs is
absent or too old."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.abspath(__file__)) + "/../../../.."
PACKAGE = os.path.join(ROOT, "capi/python")
sys.path.append(os.path.join(ROOT, "tests/outside/consumers"))
from installation import Installation, skip  # pylint: disable=wrong-import-position


def numbers(version):
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def require(need):
    """A package by its name, or as numpy>=2.1."""
    name, _, least = need.partition(">=")
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        skip(f"{sys.executable} has no {name}")
    if least and numbers(found) < numbers(least):
        skip(f"{sys.executable} has {name} {found}, and {need} is needed")


def main():
    test, needs, build, sanitizers, *meson = sys.argv[1:]
    if sanitizers != "none":
        skip("a program without the sanitizers' runtime cannot use a library with them")
    for need in needs.split():
        require(need)
    with tempfile.TemporaryDirectory() as folder:
        environment = Installation(meson, build, folder).environment
        # The package without a library inside, which finds the installed one. The source tree stays as it is.
        environment |= {"PYTHONPATH": PACKAGE, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, os.path.join(PACKAGE, "tests", test)]
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
