#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The archive of `meson dist` builds, by `meson compile deb` the Debian packages of the library come of it, and programs
build and run against what is in these. The archive is of the last commit, as Meson makes it."""

import glob
import os
import shutil
import sys
import tarfile
import tempfile

from installation import Installed, run, skip
from users import use_cmake, use_pkg_config


def archive(meson, build, version, folder):
    """The source as it is given away."""
    run(*meson, "dist", "-C", build, "--no-tests", "--allow-dirty", "--formats", "gztar")
    with tarfile.open(os.path.join(build, f"meson-dist/kvappend-{version}.tar.gz")) as file:
        file.extractall(folder)
    return os.path.join(folder, f"kvappend-{version}")


def fields(package):
    lines = run("dpkg-deb", "--field", package).splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith(" "))


def check_packages(runtime, development, abi, version):
    told = fields(runtime)
    assert told["Package"] == f"libkvappend{abi}" and told["Version"] == version + "-1", told
    assert "libc6 (>= " in told["Depends"] and "libstdc++6 (>= " in told["Depends"], told
    assert fields(development)["Depends"] == f"libkvappend{abi} (= {version}-1)", fields(development)
    if shutil.which("lintian"):
        # Root's own shells run this test, too.
        print(run("lintian", "--allow-root", "--fail-on", "error",
                  "--suppress-tags", "initial-upload-closes-no-bugs", runtime, development))


def check_contents(root, abi):
    libdir = "usr/lib/" + run("dpkg-architecture", "-qDEB_HOST_MULTIARCH")
    paths = {os.path.relpath(os.path.join(path, name), root) for path, _, names in os.walk(root) for name in names}
    assert {path for path in paths if not path.startswith("usr/share/doc/")} == {
        "usr/include/kvappend/kvappend.h", "usr/include/kvappend/kvappend.hpp", "usr/include/kvappend/version.h",
        f"{libdir}/cmake/kvappend/kvappendConfig.cmake", f"{libdir}/cmake/kvappend/kvappendConfigVersion.cmake",
        f"{libdir}/libkvappend.so", f"{libdir}/libkvappend.so.{abi}", f"{libdir}/pkgconfig/kvappend.pc"
    }, paths


def main():
    build, source, abi, version, sanitizers, *meson = sys.argv[1:]
    if sanitizers != "none":
        skip("packages are not made of sanitizers' builds")
    if not os.path.exists(os.path.join(source, ".git")) or not shutil.which("git"):
        skip("meson dist needs a git checkout, and git")
    missing = [program for program in ("dpkg-shlibdeps", "cmake") if not shutil.which(program)]
    if missing:
        skip(f"{' and '.join(missing)} missing: apt-get install dpkg-dev cmake")
    with tempfile.TemporaryDirectory() as folder:
        given = archive(meson, build, version, folder)
        with_deb = os.path.join(folder, "build")
        run(*meson, "setup", with_deb, given, "-Dcuda=disabled", "-Dtests=disabled", "-Dbench=disabled",
            "-Ddocs=disabled")
        run(*meson, "compile", "-C", with_deb, "deb")
        runtime, development = sorted(glob.glob(os.path.join(with_deb, "deb/*.deb")), key=lambda path: "-dev_" in path)
        check_packages(runtime, development, abi, version)
        root = os.path.join(folder, "root")
        for package in (runtime, development):
            run("dpkg-deb", "--extract", package, root)
        check_contents(root, abi)
        installed = Installed(root)
        use_pkg_config(installed, given, folder)
        use_cmake(installed, given, version, folder)


if __name__ == "__main__":
    main()
