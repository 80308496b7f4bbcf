# SPDX-License-Identifier: Apache-2.0
"""The README's first code and the examples run, and print what they say."""

import importlib.util
import os
import re
import subprocess
import sys
import unittest

FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(*arguments):
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout
    return done.stdout


def example(name):
    return run(os.path.join(FOLDER, "examples", name))


class Examples(unittest.TestCase):
    def test_readme(self):
        with open(os.path.join(FOLDER, "README.md"), encoding="utf-8") as file:
            code = re.search(r"^```python\n(.*?)^```", file.read(), re.MULTILINE | re.DOTALL).group(1)
        (printed,) = re.findall(r"^print\(.*\) *# (.*)$", code, re.MULTILINE)
        self.assertEqual(run("-c", code).strip(), printed)

    def test_decode(self):
        shown = example("decode.py")
        self.assertIn("step 3: the samples have 7 and 4 rows\nK is the same, bit for bit: True\n", shown)
        (error,) = re.findall(r"^V took 27% of the bytes, and its largest error is (\d\.\d+)$", shown, re.MULTILINE)
        self.assertTrue(0 < float(error) < 0.02, shown)

    @unittest.skipUnless(importlib.util.find_spec("transformers"), "there is no transformers")
    def test_generate(self):
        self.assertRegex(example("generate.py"), r"\nKvappendCache: +\[.*\] the same\nKvappendCache in q8_0: \[")


if __name__ == "__main__":
    unittest.main()
