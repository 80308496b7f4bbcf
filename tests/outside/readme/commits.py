#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The check of commit messages accepts what CONTRIBUTING.md asks for, and refuses what breaks one part of its rule."""

import os
import subprocess
import sys
import tempfile

GOOD = [
    "host: convert with half the instructions\n\nThe loops have one width now.\n",
    "cuda, tests: embed the code of a kernel\n\n- It loads faster.\n",
    "README: process rows\n\nWhy.\n",
    "kvappend.hpp: speed up views\n\nWhy.\n\n# A comment of git's.\n",
    "fixup! host: convert with half the instructions\n",
    'Revert "host: add a loop"\n\nThis reverts commit 0123456789.\n',
    'Reapply "host: add a loop"\n\nThis reverts commit 0123456789.\n',
    "Merge branch 'loops'\n\n# Conflicts:\n",
]
BAD = {
    "convert with half the instructions\n\nWhy.\n": "does not begin with an area",
    "Host side: add a loop\n\nWhy.\n": "does not begin with an area",
    "host:\n\nWhy.\n": "does not begin with an area",
    "host: added a loop\n\nWhy.\n": "does not begin with an imperative",
    "host: adding a loop\n\nWhy.\n": "does not begin with an imperative",
    "host: adds a loop\n\nWhy.\n": "does not begin with an imperative",
    "host: Add a loop\n\nWhy.\n": "capital letter",
    "host: add a loop.\n\nWhy.\n": "full stop",
    "host: add a loop\nWhy.\n": "line 2 is not blank",
    "host: add a loop\n": "has no body",
    "host: add a loop\n\n# Only a comment.\n": "has no body",
    f"host: add {'a' * 63}\n\nWhy.\n": "has 73 characters",
}


def check(script, message):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "message")
        with open(path, "w", encoding="ascii") as file:
            file.write(message)
        return subprocess.run([sys.executable, script, "--message", path], stderr=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, text=True, check=False)


def main():
    script = sys.argv[1]
    for message in GOOD:
        done = check(script, message)
        assert done.returncode == 0, (message, done.stderr)
    for message, fault in BAD.items():
        done = check(script, message)
        assert done.returncode == 1 and done.stderr.count("message: ") == 1 and fault in done.stderr, (message, done)


if __name__ == "__main__":
    main()
