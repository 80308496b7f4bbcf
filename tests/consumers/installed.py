#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An installed copy serves a C program through pkg-config, and the source tree serves a Meson project as a subproject."""

import os
import subprocess
import sys
import tempfile

MESON_CONSUMER = """\
project('consumer', 'c')
kvappend = dependency('kvappend')
test('linked', executable('linked', 'linked.c', dependencies: kvappend))
"""


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def check_installed(meson, build, source, abi, folder):
    # Installed into a staging folder, as packages are built.
    run(*meson, "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", folder)
    found = {os.path.join(path, name) for path, _, names in os.walk(folder) for name in names}
    pc = next(path for path in found if path.endswith("/kvappend.pc"))
    library = next(path for path in found if path.endswith("/libkvappend.so"))
    assert os.readlink(library) == f"libkvappend.so.{abi}", library
    assert {os.path.basename(path) for path in found} == {
        "kvappend.h", "version.h", "kvappend.pc", "libkvappend.so", f"libkvappend.so.{abi}"
    }, found
    environment = dict(os.environ, PKG_CONFIG_LIBDIR=os.path.dirname(pc), PKG_CONFIG_SYSROOT_DIR=folder,
                       LD_LIBRARY_PATH=os.path.dirname(library))
    flags = run("pkg-config", "--cflags", "--libs", "kvappend", env=environment).split()
    program = os.path.join(folder, "linked")
    run("cc", "-std=c99", os.path.join(source, "tests/consumers/linked.c"), *flags, "-o", program)
    run(program, env=environment)
    needed = run("readelf", "-d", program)
    assert f"libkvappend.so.{abi}" in needed and "libstdc++" not in needed, needed


def check_subproject(meson, source, folder):
    os.makedirs(os.path.join(folder, "subprojects"))
    os.symlink(source, os.path.join(folder, "subprojects/kvappend"))
    for name in ("linked.c", "append.h"):
        os.symlink(os.path.join(source, "tests/consumers", name), os.path.join(folder, name))
    with open(os.path.join(folder, "meson.build"), "w", encoding="ascii") as file:
        file.write(MESON_CONSUMER)
    run(*meson, "setup", os.path.join(folder, "build"), folder, "--force-fallback-for=kvappend",
        "-Dkvappend:cuda=disabled")
    run(*meson, "test", "-C", os.path.join(folder, "build"))


def main():
    build, source, abi, sanitizers, *meson = sys.argv[1:]
    if sanitizers != "none":
        print("skipped: a program without the sanitizers' runtime cannot use a library with them")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        check_installed(meson, build, source, abi, folder)
    with tempfile.TemporaryDirectory() as folder:
        check_subproject(meson, source, folder)


if __name__ == "__main__":
    main()
