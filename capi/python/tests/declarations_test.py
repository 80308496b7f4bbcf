# SPDX-License-Identifier: Apache-2.0
"""The package declares what the header does: names and types by the header's text, numbers by the C compiler."""

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from unittest import mock

from kvappend import abi

STRUCTS = {"kvappend_descriptor": abi.Descriptor, "kvappend_storage": abi.Storage,
           "kvappend_rotary": abi.Rotary,
           "kvappend_preference": abi.Preference, "kvappend_args": abi.Args,
           "kvappend_report": abi.Report, "kvappend_fault": abi.Fault, "kvappend_sku": abi.Sku,
           "kvappend_precision_guarantee": abi.PrecisionGuarantee}
# The table of functions is for programs that look up one symbol only; ctypes looks up all.
NOT_DECLARED = {"kvappend_api"}
ENUMERATIONS = [("KVAPPEND_", abi.Status)] + [
    (f"KVAPPEND_{kind.__name__.upper()}_", kind)
    for kind in (abi.Backend, abi.Element, abi.Offset, abi.Index, abi.Addressing, abi.Lengths, abi.Flag, abi.Skip,
                 abi.Axis, abi.Stored, abi.Scaling, abi.Rounding, abi.Nibbles, abi.Preset, abi.Operation)] + [
    ("KVAPPEND_ROTARY_", abi.RotaryStyle)] + [
    ("KVAPPEND_SCALE_", kind) for kind in (abi.ScaleUse, abi.ScaleType, abi.ScaleRounding, abi.ScaleOrder)]
NUMBERS = {"int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "uint32_t": ctypes.c_uint32,
           "size_t": ctypes.c_size_t, "float": ctypes.c_float}


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


def installed_include():
    # Also where it is one that pkg-config takes for the compiler's own, and would leave out.
    environment = dict(os.environ, PKG_CONFIG_ALLOW_SYSTEM_CFLAGS="1")
    folders = [flag.removeprefix("-I") for flag in run("pkg-config", "--cflags", "kvappend", env=environment).split()]
    return next(folder for folder in folders if os.path.exists(os.path.join(folder, "kvappend/kvappend.h")))


def ctype(declared, is_result=False, is_field=False):
    """What stands in ctypes for a type of C. A pointer as a field of a struct is a buffer, which may be of anything,
    unless it points to a storage or to a rotation."""
    words = re.sub(r"\b(const|struct)\b", "", declared).replace("*", " * ").split()
    base, stars = words[0], words.count("*")
    if base == "kvappend_status":
        return abi.Result if is_result else ctypes.c_int32
    if not stars:
        return NUMBERS[base]
    if base == "char":
        return ctypes.c_char_p
    is_buffer = is_field and base not in ("kvappend_storage", "kvappend_rotary")
    kind = ctypes.c_void_p if is_buffer or base not in STRUCTS and base not in NUMBERS else (
        ctypes.POINTER((STRUCTS | NUMBERS)[base]))
    for _ in range(stars - 1):
        kind = ctypes.POINTER(kind)
    return kind


def compiled(include, expressions):
    """The values that the C compiler has for these expressions."""
    lines = "\n".join(f'printf("%lld\\n", (long long)({expression}));' for expression in expressions)
    program = ("#include <kvappend/kvappend.h>\n#include <stddef.h>\n#include <stdio.h>\n"
               f"int main(void) {{\n{lines}\nreturn 0;\n}}\n")
    with tempfile.TemporaryDirectory() as folder:
        binary = os.path.join(folder, "values")
        run("cc", "-std=c99", "-I", include, "-x", "c", "-", "-o", binary, input=program)
        return dict(zip(expressions, map(int, run(binary).split()), strict=True))


def by_header(include):
    # Whatever attributes exported functions have, they have some.
    text = run("cc", "-std=c99", "-E", "-P", "-D__attribute__(attributes)=EXPORTED", "-I", include,
               os.path.join(include, "kvappend/kvappend.h"))
    text = " ".join(text.split())
    types, expressions = {}, ["KVAPPEND_ABI_VERSION"]
    for _, body in re.findall(r"enum (kvappend_\w+) \{(.*?)\}", text):
        expressions += re.findall(r"KVAPPEND_\w+", body)
    for name, body in re.findall(r"typedef struct (kvappend_\w+) \{(.*?)\} \1;", text):
        if name in NOT_DECLARED:
            continue
        expressions.append(f"sizeof({name})")
        for field in filter(None, map(str.strip, body.split(";"))):
            declared, field, _, length = re.fullmatch(r"(.*?)(\w+)(\[(\d+)\])?", field).groups()
            kind = ctype(declared, is_field=True)
            types[f"{name}.{field}"] = kind * int(length) if length else kind
            expressions += [f"offsetof({name}, {field})", f"sizeof((({name} *)NULL)->{field})"]
    for result, name, parameters in re.findall(r"EXPORTED ([^;]*?)(kvappend_\w+)\((.*?)\);", text):
        kinds = [ctype(re.sub(r"\w+$", "", parameter)) for parameter in parameters.split(",") if parameter != "void"]
        types[name] = (ctype(result, is_result=True), kinds)
    return types, compiled(include, expressions)


def by_package():
    types = {"kvappend_" + name: signature for name, signature in abi.FUNCTIONS.items()}
    values = {"KVAPPEND_ABI_VERSION": abi.ABI_VERSION}
    for prefix, enumeration in ENUMERATIONS:
        values |= {prefix + member.name: member.value for member in enumeration}
    for name, struct in STRUCTS.items():
        values[f"sizeof({name})"] = ctypes.sizeof(struct)
        for field, kind in struct._fields_:  # pylint: disable=protected-access
            types[f"{name}.{field}"] = kind
            values[f"offsetof({name}, {field})"] = getattr(struct, field).offset
            values[f"sizeof((({name} *)NULL)->{field})"] = ctypes.sizeof(kind)
    return types, values


class Declarations(unittest.TestCase):
    maxDiff = None

    def test_are_those_of_the_header(self):
        types, values = by_header(installed_include())
        own_types, own_values = by_package()
        self.assertEqual(own_types, types)
        self.assertEqual(own_values, values)
        self.assertGreater(len(values), 100)

    def test_are_not_those_of_another_header(self):
        changes = [
            ("KVAPPEND_ERROR_ALIAS = 33", "KVAPPEND_ERROR_ALIAS = 39"),
            ("KVAPPEND_ERROR_ROTARY = 54", "KVAPPEND_ERROR_ROTARY = 54, KVAPPEND_ERROR_NEW = 55"),
            ("KVAPPEND_SCALE_UE8M0 = 3", "KVAPPEND_SCALE_UE8M0 = 3, KVAPPEND_SCALE_NEW = 4"),
            ("float scale_floor;", "int32_t scale_floor;"),
            ("const struct kvappend_storage *v_storage;", "const void *v_storage;"),
            ("KVAPPEND_SKIP_TRAP = 2", "KVAPPEND_SKIP_TRAP = 2, KVAPPEND_SKIP_NEW = 3"),
            ("int64_t batch;", "int64_t new_field; int64_t batch;"),
            ("int64_t k_pack;", "uint32_t k_pack; int32_t new_field;"),
            ("int32_t host_threads;", "int32_t renamed;"),
            ("int64_t k_new_strides[3]", "int64_t k_new_strides[4]"),
            ("size_t report_bytes;", "size_t report_bytes; size_t new_field;"),
            ("void *workspace,\n                                               size_t workspace_bytes,",
             "void *workspace, int32_t workspace_bytes,"),
            ("kvappend_version(void);", "kvappend_version(void); KVAPPEND_API uint32_t kvappend_new(void);"),
            ("KVAPPEND_API uint32_t kvappend_version(void);", ""),
        ]
        with open(os.path.join(installed_include(), "kvappend/kvappend.h"), encoding="ascii") as file:
            header = file.read()
        for before, after in changes:
            with self.subTest(after), tempfile.TemporaryDirectory() as folder:
                self.assertTrue(before in header, before)
                os.makedirs(os.path.join(folder, "kvappend"))
                shutil.copy(os.path.join(installed_include(), "kvappend/version.h"), os.path.join(folder, "kvappend"))
                with open(os.path.join(folder, "kvappend/kvappend.h"), "w", encoding="ascii") as file:
                    file.write(header.replace(before, after, 1))
                self.assertNotEqual(by_package(), by_header(folder))


class Loading(unittest.TestCase):
    def test_refuses_a_library_of_another_abi(self):
        with mock.patch.object(abi, "ABI_VERSION", 999):
            with self.assertRaisesRegex(abi.Error, "KVAPPEND_ERROR_ABI_VERSION: .*999"):
                abi.load("libkvappend.so.1")

    def test_refuses_a_library_without_a_function(self):
        with self.assertRaisesRegex(AttributeError, "kvappend_"):
            abi.load("libc.so.6")


if __name__ == "__main__":
    unittest.main()
