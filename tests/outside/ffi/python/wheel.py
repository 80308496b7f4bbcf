#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The Python package is built from its folder with a finished library inside, and installed in a fresh environment,
without a network and without a compiler. It appends a row, and so does what its sdist gives. The sdist has all sources.
"""

import glob
import importlib.util
import os
import sys
import tarfile
import tempfile

PACKAGE = os.path.dirname(os.path.abspath(__file__)) + "/../../../../capi/python"
sys.path += [PACKAGE, PACKAGE + "/../../tests/outside/consumers"]
sys.dont_write_bytecode = True
import backend  # pylint: disable=wrong-import-position
from installation import run, skip  # pylint: disable=wrong-import-position

# By the C interface alone, as a fresh environment has no tensors.
APPEND = """
import ctypes, importlib.metadata
from kvappend import abi

new, cache, offset = (ctypes.c_float * 2)(1, 2), (ctypes.c_float * 8)(), (ctypes.c_int64 * 1)(2)
plan, library = abi.PlanPointer(), abi.library()
library.plan_create(abi.Descriptor(batch=1, heads=1, new_rows=1, cache_rows=4, cache_blocks=1, k_dim=2), None, plan)
buffers = {}
for name, buffer in (("k_new", new), ("k_cache", cache), ("cache_offsets", offset)):
    buffers |= {name: ctypes.addressof(buffer), name + "_bytes": ctypes.sizeof(buffer)}
library.plan_run(plan, abi.Args(**buffers), None, 0, None)
library.plan_destroy(plan)
assert list(cache) == [0, 0, 0, 0, 1, 2, 0, 0], list(cache)

major, minor, patch = map(int, importlib.metadata.version("kvappend").split("."))
assert library.version() == major * 10000 + minor * 100 + patch, library.version()
loaded = {line.split()[-1] for line in open("/proc/self/maps") if "libkvappend" in line}
assert len(loaded) == 1 and "site-packages/kvappend/" in loaded.pop(), loaded
print("appended")
"""


def main():
    library, sanitizers, *meson = sys.argv[1:]
    if sanitizers != "none":
        skip("a program without the sanitizers' runtime cannot use a library with them")
    if not importlib.util.find_spec("ensurepip"):
        skip(f"{sys.executable} cannot make an environment with pip")
    left_out = ("PYTHONPATH", "LD_LIBRARY_PATH", "KVAPPEND_LIBRARY")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INDEX": "1"}
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "venv", folder + "/fresh")
        python = folder + "/fresh/bin/python"
        setting = ("--no-deps", "--config-settings", "library=" + library)
        # The sdist of the same backend, which this interpreter can call by itself.
        archive = os.path.join(folder, backend.build_sdist(folder))
        with tarfile.open(archive) as file:
            names, members = file.getnames(), file.getmembers()
            file.extractall(folder + "/unpacked")
        assert len(names) == len(set(names)), "the sdist has a file twice"
        private = [member.name for member in members if member.mode & 0o444 != 0o444 or member.uname or member.uid]
        assert not private, f"not for everyone, or with the name of an owner: {private}"
        # The sources of the library are complete: every file that a build needs is named in the setup.
        (sources,) = glob.glob(folder + "/unpacked/*/library")
        run(*meson, *backend.SETUP, folder + "/build", sources, env=environment)
        for source in (PACKAGE, archive):
            wheels = os.path.join(folder, "wheels", os.path.basename(source))
            run(python, "-m", "pip", "wheel", *setting, "-w", wheels, source, env=environment)
            (wheel,) = glob.glob(wheels + "/kvappend-*.whl")
            run(python, "-m", "pip", "install", "--force-reinstall", wheel, env=environment)
            print(os.path.basename(wheel), run(python, "-c", APPEND, cwd=folder, env=environment))


if __name__ == "__main__":
    main()
