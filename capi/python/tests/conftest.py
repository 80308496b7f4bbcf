# SPDX-License-Identifier: Apache-2.0
"""Leaves out the tests whose packages are not installed, and says so. `devices_test.py` needs the emulated CUDA runtime
of a build folder, whose path is in EMULATED."""

import importlib.util
import os
import shutil

NEEDS = {"declarations_test.py": [], "devices_test.py": ["numpy"], "pytorch_test.py": ["numpy", "torch"],
         "pytorch_operators_test.py": ["torch"], "transformers_test.py": ["torch", "transformers"],
         "transformers_rotary_test.py": ["torch", "transformers"]}
FOLDER = os.path.dirname(os.path.abspath(__file__))


def _missing(name):
    missing = [need for need in NEEDS.get(name, ["numpy"]) if not importlib.util.find_spec(need)]
    if name == "devices_test.py" and "EMULATED" not in os.environ:
        missing.append("EMULATED")
    # The header is compared with the declarations where it is installed.
    if name == "declarations_test.py" and (not shutil.which("pkg-config") or os.system("pkg-config kvappend")):
        missing.append("an installed libkvappend")
    return missing


LEFT_OUT = {name: missing for name in sorted(os.listdir(FOLDER)) if name.endswith("_test.py")
            and (missing := _missing(name))}
collect_ignore = list(LEFT_OUT)


def pytest_report_header():
    return [f"left out: {name}, which needs {', '.join(missing)}" for name, missing in LEFT_OUT.items()]
