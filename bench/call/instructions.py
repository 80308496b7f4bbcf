#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Counts the instructions of each call by callgrind: those of 2000 calls less those of 1000, which leaves out all that
happens once. Prints them less those of an empty call."""

import re
import shutil
import subprocess
import sys
import tempfile


def instructions(program, name, times):
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", program, "--make", name,
                        str(times)], check=True, capture_output=True)
        return int(re.search(rb"^(?:summary|totals): (\d+)", open(out.name, "rb").read(), re.M).group(1))


def main():
    if shutil.which("valgrind") is None:
        print("valgrind is not installed")
        sys.exit(77)
    print(f"{'instructions a call, less those of an empty one':<52}")
    for program in sys.argv[1:]:
        print(program.rsplit("/", maxsplit=1)[-1])
        names = subprocess.run([program, "--list"], check=True, capture_output=True, text=True).stdout.splitlines()
        each = {name: (instructions(program, name, 2000) - instructions(program, name, 1000)) / 1000 for name in names}
        for name in names[1:]:
            print(f"  {name:<44}{each[name] - each[names[0]]:10.0f}")


main()
