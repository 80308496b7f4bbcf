#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The static library serves C and C++ programs through pkg-config, and CMake projects. It is built for this, without
optimisation, as a build has the shared library only."""

import os
import shutil
import sys
import tempfile

from installation import Installation, run, skip
from users import use_cmake, use_pkg_config


def main():
    _, source, _, version, sanitizers, *meson = sys.argv[1:]
    if sanitizers != "none":
        skip("a program without the sanitizers' runtime cannot use a library with them")
    with tempfile.TemporaryDirectory() as folder:
        build = os.path.join(folder, "build")
        run(*meson, "setup", build, source, "-Ddefault_library=static", "-Dbuildtype=plain", "-Dcuda=disabled",
            "-Dtests=disabled", "-Dbench=disabled", "-Ddocs=disabled")
        run(*meson, "compile", "-C", build)
        installation = Installation(meson, build, os.path.join(folder, "root"), static=True)
        assert not any("libkvappend.so" in path for path in installation.files), installation.files
        program = use_pkg_config(installation, source, folder)
        needed = run("readelf", "-d", program)
        assert "libkvappend" not in needed, needed
        if shutil.which("cmake"):
            use_cmake(installation, source, version, folder)


if __name__ == "__main__":
    main()
