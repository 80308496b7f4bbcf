#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the library's binary interface, as its debug information has it, with kvappend.abi by libabigail's abidiff;
skipped (77) where there is no abidiff, or no debug information of types.

dump.py LIBRARY HEADERS DUMP           compares
dump.py --record LIBRARY HEADERS DUMP  writes DUMP anew"""

import re
import shutil
import subprocess
import sys
import tempfile

# Neither the machine's paths nor its processor, and nothing but what the headers declare.
OPTIONS = ["--drop-private-types", "--exported-interfaces-only", "--no-architecture", "--no-comp-dir-path",
           "--no-corpus-path", "--no-elf-needed", "--no-parameter-names", "--no-show-locs", "--no-write-default-sizes",
           "--type-id-style", "hash"]
# The bits of abidiff's status.
FAILED = 1 | 2
INCOMPATIBLE = 8


def write_dump(library, headers, dump):
    text = subprocess.run(["abidw", *OPTIONS, "--headers-dir", headers, library], check=True, capture_output=True,
                          text=True).stdout
    with open(dump, "w", encoding="ascii") as file:
        file.write(re.sub(r"path='[^']*?/(capi/[^']*)'", r"path='\1'", text))


def compare(library, headers, dump):
    if shutil.which("abidiff") is None or shutil.which("abidw") is None:
        print("skipped: abidiff and abidw, libabigail's tools, are missing")
        return 77
    # -g1 gives lines and no types.
    abbreviations = subprocess.run(["readelf", "--debug-dump=abbrev", library], check=True, capture_output=True,
                                   text=True).stdout
    if "DW_TAG_structure_type" not in abbreviations:
        print("skipped: the library is built without debug information of types")
        return 77
    with tempfile.TemporaryDirectory() as folder:
        # Dump against dump: of a type whose place in the source is unknown, as in a dump, abidiff would otherwise say
        # that it is private, and be silent.
        now = folder + "/now.abi"
        write_dump(library, headers, now)
        found = subprocess.run(["abidiff", "--no-architecture", "--no-show-locs", dump, now], capture_output=True,
                               text=True)
    print(found.stdout, found.stderr, sep="", end="")
    if found.returncode == 0:
        print("the interface is the one that is recorded")
        return 0
    if found.returncode & FAILED:
        print("abidiff failed")
    else:
        if found.returncode & INCOMPATIBLE:
            print("Programs compiled against an older header would no longer run.")
        print("What is new or meant to change is recorded by: meson compile -C BUILD record-abi")
    return 1


def main():
    arguments = sys.argv[1:]
    if arguments[0] == "--record":
        write_dump(*arguments[1:])
        return 0
    return compare(*arguments)


if __name__ == "__main__":
    sys.exit(main())
