#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The inputs of a fuzzer, kept in one archive. An input's name is the SHA-1 of its bytes, as libFuzzer names it.

corpus.py unpack ARCHIVE FOLDER STAMP  makes FOLDER hold exactly the archive's inputs, and touches STAMP
corpus.py add ARCHIVE FILE...          adds the files to the archive, which is made if there is none
corpus.py list ARCHIVE                 prints the names and sizes

The same inputs always make the same archive."""

import hashlib
import io
import lzma
import os
import shutil
import sys
import tarfile


def read(archive):
    """name -> bytes"""
    inputs = {}
    with tarfile.open(archive, "r:xz") as file:
        for member in file:
            data = file.extractfile(member).read()
            assert member.name == hashlib.sha1(data).hexdigest(), f"{archive}: {member.name} is not its input's SHA-1"
            inputs[member.name] = data
    assert inputs, f"{archive} is empty"
    return inputs


def write(archive, inputs):
    """Sorted names, and no time, owner or permissions of whoever writes it."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as file:
        for name, data in sorted(inputs.items()):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    with open(archive, "wb") as file:
        file.write(lzma.compress(raw.getvalue(), preset=9 | lzma.PRESET_EXTREME))


def unpack(archive, folder, stamp):
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    for name, data in read(archive).items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
    with open(stamp, "w", encoding="ascii"):
        pass


def add(archive, *paths):
    inputs = read(archive) if os.path.exists(archive) else {}
    before = len(inputs)
    for path in paths:
        with open(path, "rb") as file:
            data = file.read()
        inputs[hashlib.sha1(data).hexdigest()] = data
    write(archive, inputs)
    print(f"{archive}: {len(inputs) - before} added, {len(inputs)} inputs")


def show(archive):
    for name, data in read(archive).items():
        print(name, len(data))


def main():
    commands = {"unpack": unpack, "add": add, "list": show}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    main()
