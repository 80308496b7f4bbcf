#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An installed copy serves programs through pkg-config, and the source tree serves a Meson project as a subproject."""

import os
import sys
import tempfile

from installation import Installation, run, skip
from users import use_pkg_config

MESON_CONSUMER = """\
project('consumer', 'c')
kvappend = dependency('kvappend')
test('linked', executable('linked', 'linked.c', dependencies: kvappend))
"""


def check_installed(meson, build, source, abi, folder):
    installation = Installation(meson, build, folder)
    assert os.readlink(installation.library) == f"libkvappend.so.{abi}", installation.library
    both = {"libkvappend.a"} if os.path.exists(os.path.join(build, "libkvappend.a")) else set()
    assert {os.path.basename(path) for path in installation.files} == both | {
        "kvappend.h", "kvappend.hpp", "version.h", "kvappend.pc", "kvappendConfig.cmake", "kvappendConfigVersion.cmake",
        "libkvappend.so", f"libkvappend.so.{abi}"
    }, installation.files
    program = use_pkg_config(installation, source, folder)
    needed = run("readelf", "-d", program)
    assert f"libkvappend.so.{abi}" in needed and "libstdc++" not in needed, needed


def check_subproject(meson, source, folder):
    os.makedirs(os.path.join(folder, "subprojects"))
    os.symlink(source, os.path.join(folder, "subprojects/kvappend"))
    for name in ("linked.c", "append.h"):
        os.symlink(os.path.join(source, "tests/outside/consumers", name), os.path.join(folder, name))
    with open(os.path.join(folder, "meson.build"), "w", encoding="ascii") as file:
        file.write(MESON_CONSUMER)
    run(*meson, "setup", os.path.join(folder, "build"), folder, "--force-fallback-for=kvappend",
        "-Dkvappend:cuda=disabled")
    run(*meson, "test", "-C", os.path.join(folder, "build"))


def main():
    build, source, abi, _, sanitizers, *meson = sys.argv[1:]
    if sanitizers != "none":
        skip("a program without the sanitizers' runtime cannot use a library with them")
    with tempfile.TemporaryDirectory() as folder:
        check_installed(meson, build, source, abi, folder)
    with tempfile.TemporaryDirectory() as folder:
        check_subproject(meson, source, folder)


if __name__ == "__main__":
    main()
