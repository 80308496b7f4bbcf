#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The README's example compiles and runs as shown, and its table of errors is that of the header."""

import os
import re
import subprocess
import sys
import tempfile


def main():
    readme_path, header_path, library, sanitizers = sys.argv[1:]
    with open(readme_path, encoding="utf-8") as file:
        readme = file.read()
    with open(header_path, encoding="ascii") as file:
        header = file.read()

    statuses = re.findall(r"^    (KVAPPEND_(?:SUCCESS|ERROR_\w+)) = (\d+)", header, re.MULTILINE)
    told = re.findall(r"^\| `(KVAPPEND_\w+)` \| (\d+) \|", readme, re.MULTILINE)
    assert told == statuses, set(told) ^ set(statuses)

    (example,) = re.findall(r"^```c\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert example.count("\n") <= 30, "the example has more than 30 lines"
    commands = re.findall(r"^\.ci/setup && .*", readme, re.MULTILINE)
    assert len(commands) == 2, commands
    if sanitizers != "none":
        print("skipped: a program without the sanitizers' runtime cannot use a library with them")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "example.c")
        program = os.path.join(folder, "example")
        with open(source, "w", encoding="ascii") as file:
            file.write(example)
        include = os.path.dirname(os.path.dirname(header_path))
        subprocess.run(["cc", "-std=c99", "-pedantic-errors", "-Wall", "-Wextra", "-Werror", "-I", include, source,
                        library, f"-Wl,-rpath,{os.path.dirname(library)}", "-o", program], check=True)
        shown = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    # The comment behind the printf says what it prints.
    assert f"/* {shown.strip()} */" in example, shown


if __name__ == "__main__":
    main()
