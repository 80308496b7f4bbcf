# SPDX-License-Identifier: Apache-2.0
"""A copy of the library as packages install it, in a scratch folder, for programs that find it as a user's do."""

import os
import subprocess
import sys

SKIPPED = 77


def run(*command, **options):
    """What the command prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


class Installed:
    """The library as it lies below `folder`; `environment` leads pkg-config and the loader there."""

    def __init__(self, folder, static=False):
        self.files = {os.path.join(path, name) for path, _, names in os.walk(folder) for name in names}
        self.static = static
        self.library = self.find("/libkvappend.a" if static else "/libkvappend.so")
        self.prefix = os.path.dirname(os.path.dirname(os.path.dirname(self.find("/include/kvappend/kvappend.h"))))
        self.environment = dict(os.environ, PKG_CONFIG_LIBDIR=os.path.dirname(self.find("/kvappend.pc")),
                                PKG_CONFIG_SYSROOT_DIR=folder, LD_LIBRARY_PATH=os.path.dirname(self.library))

    def find(self, end):
        return next(path for path in self.files if path.endswith(end))

    def flags(self):
        """What a compiler needs to be told."""
        # pkg-config leaves out what it takes for the compiler's own, which below a scratch folder it is not.
        environment = dict(self.environment, PKG_CONFIG_ALLOW_SYSTEM_CFLAGS="1", PKG_CONFIG_ALLOW_SYSTEM_LIBS="1")
        static = ("--static",) if self.static else ()
        return run("pkg-config", *static, "--cflags", "--libs", "kvappend", env=environment).split()


class Installation(Installed):
    """The build, installed below `folder`."""

    def __init__(self, meson, build, folder, static=False):
        run(*meson, "install", "-C", build, "--no-rebuild", "--quiet", "--destdir", folder)
        super().__init__(folder, static)
