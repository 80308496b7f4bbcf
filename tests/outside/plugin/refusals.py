#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A host program survives whatever it loads for libkvappend, says what is wrong, and takes another that serves."""

import re
import subprocess
import sys


def main():
    host, library, without_entry, other_abi, shorter_table = sys.argv[1:]
    missing = library + ".missing"
    refusals = [
        (missing, 3, rf"no library: {re.escape(missing)}: cannot open shared object file: .*"),
        (__file__, 3, rf"no library: {re.escape(__file__)}: (invalid ELF header|file too short)"),
        (without_entry, 4, rf"{re.escape(without_entry)} is not libkvappend: it has no kvappend_get_api"),
        (other_abi, 5, rf"{re.escape(other_abi)} does not have ABI 1, for which this program was built"),
        (shorter_table, 6, rf"{re.escape(shorter_table)} is version 0\.2\.3, which lacks plan_run_layers: \S+ has it"),
    ]
    for path, code, message in refusals:
        done = subprocess.run([host, path], capture_output=True, text=True, check=False)
        assert done.returncode == code, (path, done)
        assert re.fullmatch(message + "\n", done.stderr), (path, done)
        print(f"{code}: {done.stderr}", end="")

    done = subprocess.run([host, *(path for path, _, _ in refusals), library], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert re.fullmatch("".join(message + "\n" for _, _, message in refusals), done.stderr), done
    assert done.stdout.endswith(f"used {library}\n"), done


if __name__ == "__main__":
    main()
