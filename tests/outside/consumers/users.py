# SPDX-License-Identifier: Apache-2.0
"""Programs of users, built against an installed copy and run."""

import os

from installation import run


def use_pkg_config(installation, source, folder):
    """A C and a C++ program by the compiler alone; the path of the C program."""
    here = os.path.join(source, "tests/outside/consumers")
    for name, compiler in (("wrapped.cpp", ("c++", "-std=c++17")), ("linked.c", ("cc", "-std=c99"))):
        program = os.path.join(folder, "by-pkg-config-" + name)
        run(*compiler, os.path.join(here, name), *installation.flags(), "-o", program)
        run(program, env=installation.environment)
    return program


def use_cmake(installation, source, version, folder):
    """The same programs as a CMake project, and the versions that such a project may ask for."""
    here = os.path.join(source, "tests/outside/consumers")
    found = ("-G", "Ninja", "-DCMAKE_PREFIX_PATH=" + installation.prefix, "-Wno-dev")
    build = os.path.join(folder, "by-cmake")
    run("cmake", "-S", os.path.join(here, "cmake"), "-B", build, *found)
    run("cmake", "--build", build)
    run("ctest", "--test-dir", build, "--output-on-failure", "--no-tests=error")
    with open(os.path.join(build, "CMakeCache.txt"), encoding="utf-8") as file:
        assert f"kvappend_DIR:PATH={installation.prefix}/" in file.read(), "another copy was found"
    run("cmake", "-S", os.path.join(here, "versions"), "-B", os.path.join(folder, "versions"), "-G", "Ninja",
        "-DWHERE=" + os.path.dirname(installation.find("/kvappendConfig.cmake")), "-DVERSION=" + version, "-Wno-dev")
