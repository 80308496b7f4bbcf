#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that an example prints what the comments after its printf calls say, in order, and exits with status 0."""

import re
import subprocess
import sys

SKIPPED = 77


def main():
    source, *command = sys.argv[1:]
    with open(source, encoding="ascii") as file:
        text = file.read()
    # Each printf call runs once.
    calls = re.findall(r"^ *(?:std::)?printf\(.*?\);[ \t]*(?:/\* (.*?) \*/|// (.*?))$", text, re.MULTILINE | re.DOTALL)
    expected = [c or cpp for c, cpp in calls]
    assert expected and len(expected) == len(re.findall(r"(?<!f)\bprintf\(", text)), f"{source}: a printf tells nothing"
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == SKIPPED:
        print(done.stdout)
        sys.exit(SKIPPED)
    assert done.returncode == 0, done
    assert done.stdout.splitlines() == expected, f"{source} printed {done.stdout.splitlines()}, not {expected}"
    print(done.stdout, end="")


if __name__ == "__main__":
    main()
