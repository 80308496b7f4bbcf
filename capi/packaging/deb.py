#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes Debian packages of the library: libkvappend<ABI> with the library, libkvappend-dev with what programs are built
with. Needs dpkg-dev. DEBFULLNAME and DEBEMAIL name the maintainer, as for Debian's own tools."""

import email.utils
import gzip
import hashlib
import os
import shutil
import subprocess
import sys

DESCRIPTION = """\
appends K and V rows to the KV caches of LLM runtimes{part}
 At each step of autoregressive decoding a model produces new K and V rows for
 every sample of a batch. libkvappend writes them into the running KV caches,
 bit-exact, on host memory or on a CUDA device, through a stable C interface.
"""

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: libkvappend
Comment: Built with its CUDA backend, the library contains NVIDIA's static CUDA
 runtime, which the licence of the CUDA Toolkit allows to be distributed so.

Files: *
Copyright: {year} the authors of libkvappend
License: Apache-2.0
 On Debian systems, the text of the Apache License, Version 2.0, is in
 /usr/share/common-licenses/Apache-2.0.
"""


def output(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout.strip()


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def write_compressed(path, text):
    """Without the name and time that would make each build's file another."""
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 9, raw, 0) as file:
        file.write(text.encode())


class Packages:
    def __init__(self, source, folder, version, abi):
        self.folder = folder
        self.version = version + "-1"
        self.upstream = version
        self.abi = abi
        self.runtime = f"libkvappend{abi}"
        self.architecture = output("dpkg-architecture", "-qDEB_HOST_ARCH")
        self.libdir = "lib/" + output("dpkg-architecture", "-qDEB_HOST_MULTIARCH")
        self.maintainer = "{} <{}>".format(os.environ.get("DEBFULLNAME", "libkvappend"),
                                           os.environ.get("DEBEMAIL", "libkvappend@example.com"))
        with open(os.path.join(source, "CHANGELOG.md"), encoding="utf-8") as file:
            self.changes = file.read()
        # One time for all files, so that the same source gives the same packages.
        epoch = os.environ.setdefault("SOURCE_DATE_EPOCH",
                                      str(int(os.path.getmtime(os.path.join(source, "CHANGELOG.md")))))
        self.date = email.utils.formatdate(int(epoch))
        self.copyright = COPYRIGHT.format(year=self.date.split()[3])

    def root(self, package):
        return os.path.join(self.folder, package)

    def build(self, meson, source, options):
        build = os.path.join(self.folder, "build")
        subprocess.run([meson, "setup", build, source, "--prefix=/usr", "--libdir=" + self.libdir,
                        "--buildtype=release", "-Dtests=disabled", "-Dbench=disabled", *options], check=True)
        subprocess.run([meson, "compile", "-C", build], check=True)
        for package, tag in ((self.runtime, "runtime"), ("libkvappend-dev", "devel")):
            subprocess.run([meson, "install", "-C", build, "--no-rebuild", "--quiet", "--strip", "--tags", tag,
                            "--destdir", self.root(package)], check=True)

    def needed(self):
        """The packages that the library needs, as Debian finds them by its symbols."""
        write(os.path.join(self.folder, "debian/control"),
              f"Source: kvappend\n\nPackage: {self.runtime}\nArchitecture: any\n")
        library = os.path.join(self.root(self.runtime), "usr", self.libdir, f"libkvappend.so.{self.abi}")
        return output("dpkg-shlibdeps", "-O", library, cwd=self.folder).removeprefix("shlibs:Depends=")

    def document(self, package):
        folder = os.path.join(self.root(package), "usr/share/doc", package)
        write(os.path.join(folder, "copyright"), self.copyright)
        write_compressed(os.path.join(folder, "changelog.gz"), self.changes)
        write_compressed(os.path.join(folder, "changelog.Debian.gz"),
                         f"kvappend ({self.version}) unstable; urgency=medium\n\n  * Release {self.upstream}.\n\n"
                         f" -- {self.maintainer}  {self.date}\n")

    def pack(self, package, section, depends, part):
        root = self.root(package)
        self.document(package)
        paths = sorted(os.path.join(path, name) for path, _, names in os.walk(root) for name in names)
        files = [path for path in paths if not os.path.islink(path)]
        for path in files:
            os.chmod(path, 0o644)
        kibibytes = sum((os.path.getsize(path) + 1023) // 1024 for path in files)
        sums = ""
        for path in files:
            with open(path, "rb") as file:
                sums += f"{hashlib.md5(file.read()).hexdigest()}  {os.path.relpath(path, root)}\n"
        write(os.path.join(root, "DEBIAN/md5sums"), sums)
        write(os.path.join(root, "DEBIAN/control"),
              f"Package: {package}\nSource: kvappend\nVersion: {self.version}\nArchitecture: {self.architecture}\n"
              f"Maintainer: {self.maintainer}\nInstalled-Size: {kibibytes}\nDepends: {depends}\n"
              f"Section: {section}\nPriority: optional\nMulti-Arch: same\n"
              f"Description: {DESCRIPTION.format(part=part)}")
        if package == self.runtime:
            write(os.path.join(root, "DEBIAN/shlibs"),
                  f"libkvappend {self.abi} {self.runtime} (>= {self.upstream})\n")
            write(os.path.join(root, "DEBIAN/triggers"), "activate-noawait ldconfig\n")
        subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, self.folder], check=True)


def main():
    source, folder, version, abi, meson, *options = sys.argv[1:]
    if not shutil.which("dpkg-shlibdeps"):
        sys.exit("deb: dpkg-shlibdeps is missing: install dpkg-dev")
    shutil.rmtree(folder, ignore_errors=True)
    os.umask(0o022)
    packages = Packages(source, folder, version, abi)
    packages.build(meson, source, options)
    packages.pack(packages.runtime, "libs", packages.needed(), "")
    packages.pack("libkvappend-dev", "libdevel", f"{packages.runtime} (= {packages.version})", " (development)")


if __name__ == "__main__":
    main()
