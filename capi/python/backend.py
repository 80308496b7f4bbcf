# SPDX-License-Identifier: Apache-2.0
"""Builds the package: a wheel with the library inside, and an sdist with the library's sources (PEP 517).

Two settings, which pip and build take as `-C NAME=VALUE`:

    library     the path of a finished libkvappend.so to pack, instead of building one
    setup-args  further arguments of `meson setup`, such as -Dcuda=disabled or -Darchitectures=90; may be repeated"""

import base64
import hashlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
import zipfile

FOLDER = os.path.dirname(os.path.abspath(__file__))
# An sdist has the sources of the library beside this file. In the repository this file is in capi/python.
PACKED = os.path.join(FOLDER, "library")
LIBRARY = PACKED if os.path.exists(PACKED) else os.path.dirname(os.path.dirname(FOLDER))
# What `meson setup` reads of the repository for a build without tests, benchmarks and documentation.
LIBRARY_SOURCES = (".ci/lint", "LICENSE", "README.md", "capi/abi", "capi/docs", "capi/meson.build", "capi/packaging",
                   "include", "meson.build", "meson_options.txt", "src")
SETUP = ("setup", "--buildtype=release", "-Dtests=disabled", "-Dbench=disabled", "-Ddocs=disabled",
         "-Ddefault_library=shared")
PACKAGE_SOURCES = ("README.md", "backend.py", "examples", "kvappend", "pyproject.toml", "tests")

with open(os.path.join(FOLDER, "pyproject.toml"), "rb") as _file:
    PROJECT = tomllib.load(_file)["project"]


def get_requires_for_build_wheel(config_settings=None):
    return [] if "library" in (config_settings or {}) else ["meson>=1.3", "ninja"]


def get_requires_for_build_sdist(config_settings=None):  # pylint: disable=unused-argument
    return []


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):  # pylint: disable=unused-argument
    """So that pip need not build the wheel to know what it is."""
    info = f"kvappend-{_version()}.dist-info"
    os.makedirs(os.path.join(metadata_directory, info))
    for name, content in (("METADATA", _metadata()), ("WHEEL", _wheel())):
        with open(os.path.join(metadata_directory, info, name), "w", encoding="utf-8") as file:
            file.write(content)
    return info


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):  # pylint: disable=unused-argument
    settings = config_settings or {}
    info = f"kvappend-{_version()}.dist-info"
    name = f"kvappend-{_version()}-{_tag()}.whl"
    with tempfile.TemporaryDirectory() as scratch:
        library = settings.get("library") or _build(scratch, settings.get("setup-args", []))
        files = {path: os.path.join(FOLDER, path) for path in _files(FOLDER, ["kvappend"])}
        files[f"kvappend/libkvappend.so.{_abi()}"] = library
        files[info + "/licenses/LICENSE"] = os.path.join(LIBRARY, "LICENSE")
        contents = {path: _read(source) for path, source in files.items()}
    contents[info + "/METADATA"] = _metadata().encode()
    contents[info + "/WHEEL"] = _wheel().encode()
    contents[info + "/RECORD"] = _record(contents, info + "/RECORD").encode()
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, content in contents.items():
            entry = zipfile.ZipInfo(path)  # Its time is the same in every build.
            entry.external_attr = (0o755 if ".so" in path else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, content)
    return name


def build_sdist(sdist_directory, config_settings=None):  # pylint: disable=unused-argument
    base = f"kvappend-{_version()}"
    files = {"LICENSE": os.path.join(LIBRARY, "LICENSE")}
    files |= {path: os.path.join(FOLDER, path) for path in _files(FOLDER, PACKAGE_SOURCES)}
    files |= {"library/" + path: os.path.join(LIBRARY, path) for path in _files(LIBRARY, LIBRARY_SOURCES)}
    with tarfile.open(os.path.join(sdist_directory, base + ".tar.gz"), "w:gz") as archive:
        _add(archive, base + "/PKG-INFO", _metadata().encode(), 0o644)
        for path, source in files.items():
            _add(archive, f"{base}/{path}", _read(source), 0o755 if os.access(source, os.X_OK) else 0o644)
    return base + ".tar.gz"


def _add(archive, path, content, mode):
    """Everyone may read the file, and nothing tells who built the sdist."""
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode, entry.mtime = len(content), mode, int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    archive.addfile(entry, io.BytesIO(content))


def _read(path):
    with open(path, "rb") as file:
        return file.read()


def _files(folder, names):
    """The files that these names stand for below `folder`, without what Python leaves there."""
    for name in names:
        top = os.path.join(folder, name)
        for path, _, found in sorted(os.walk(top)) if os.path.isdir(top) else [(folder, [], [name])]:
            for file in sorted(found):
                relative = os.path.relpath(os.path.join(path, file), folder)
                if "__pycache__" not in relative:
                    yield relative


def _defined(name):
    """The number that a macro of version.h has."""
    text = _read(os.path.join(LIBRARY, "include/kvappend/version.h")).decode()
    return re.search(rf"^#define KVAPPEND_{name} (\d+)", text, re.MULTILINE).group(1)


def _version():
    return ".".join(_defined(f"VERSION_{part}") for part in ("MAJOR", "MINOR", "PATCH"))


def _abi():
    return _defined("ABI_VERSION")


def _tag():
    """The library has a C interface, which ctypes calls, so one wheel serves every Python."""
    return "py3-none-" + re.sub("[-.]", "_", sysconfig.get_platform())


def _wheel():
    return f"Wheel-Version: 1.0\nGenerator: kvappend\nRoot-Is-Purelib: false\nTag: {_tag()}\n"


def _build(scratch, setup_args):
    """Builds the library, with CUDA if nvcc is found. Its path."""
    build, installed = os.path.join(scratch, "build"), os.path.join(scratch, "installed")
    arguments = [setup_args] if isinstance(setup_args, str) else setup_args
    meson = shutil.which("meson") or sys.exit("there is no meson in PATH")
    for command in ([*SETUP, *[word for text in arguments for word in shlex.split(text)], build, LIBRARY],
                    ["compile", "-C", build, "kvappend"],
                    ["install", "-C", build, "--no-rebuild", "--tags=runtime", "--strip", "--destdir", installed]):
        subprocess.run([meson, *command], check=True)
    return next(os.path.join(path, name) for path, _, names in os.walk(installed) for name in names
                if name.startswith("libkvappend.so") and not os.path.islink(os.path.join(path, name)))


def _metadata():
    lines = ["Metadata-Version: 2.4", f"Name: {PROJECT['name']}", f"Version: {_version()}",
             f"Summary: {PROJECT['description']}", f"License-Expression: {PROJECT['license']}", "License-File: LICENSE",
             f"Requires-Python: {PROJECT['requires-python']}", f"Keywords: {','.join(PROJECT['keywords'])}"]
    lines += [f"Classifier: {classifier}" for classifier in PROJECT["classifiers"]]
    for extra, packages in PROJECT["optional-dependencies"].items():
        lines += [f"Provides-Extra: {extra}"]
        lines += [f'Requires-Dist: {package}; extra == "{extra}"' for package in packages]
    lines += ["Description-Content-Type: text/markdown", "", _read(os.path.join(FOLDER, "README.md")).decode()]
    return "\n".join(lines)


def _record(contents, own):
    lines = []
    for path, content in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        lines.append(f"{path},sha256={digest},{len(content)}\n")
    return "".join(lines) + own + ",,\n"
