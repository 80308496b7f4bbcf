#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Conan makes a package of the source tree, without a network, and CMake projects find that package."""

import os
import shutil
import sys
import tempfile

from installation import run, skip


def main():
    source, version, sanitizers = sys.argv[1:]
    if sanitizers != "none":
        skip("packages are not made of sanitizers' builds")
    missing = [program for program in ("conan", "cmake") if not shutil.which(program)]
    if missing:
        skip(f"{' and '.join(missing)} missing: pip install conan, apt-get install cmake")
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, CONAN_HOME=os.path.join(folder, "conan"))
        # Conan builds a project beside its recipe, so a copy of it.
        consumers = os.path.join(folder, "consumers")
        shutil.copytree(os.path.join(source, "tests/outside/consumers"), consumers)
        run("conan", "profile", "detect", env=environment)
        run("conan", "create", os.path.join(source, "capi/packaging"), "--no-remote", "--test-folder",
            os.path.join(consumers, "conan"), env=environment)
        listed = run("conan", "list", f"kvappend/{version}", env=environment)
        assert f"kvappend/{version}" in listed.splitlines()[-1], listed


if __name__ == "__main__":
    main()
