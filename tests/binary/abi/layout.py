#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares what the header says in numbers with layout.txt: the sizes and offsets of structs and fields, the values of
enumerators and of the ABI's macros, and the types of functions. A C compiler is asked for them, as it is for a program.
The order of the declarations in the header does not matter.

layout.py HEADER LIST COMPILER...           compares
layout.py --record HEADER LIST COMPILER...  writes LIST anew"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path


def declared(header):
    """Structs with their fields, enumerators, _INIT macros and functions, in the header's order."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="ascii"), flags=re.DOTALL)
    structs = {}
    for name, body in re.findall(r"typedef struct (kvappend_\w+) \{(.*?)\} \1;", text, re.DOTALL):
        fields = []
        for field in body.split(";"):
            if match := re.search(r"\(\*(\w+)\)\(|(\w+)\s*(?:\[\d+\])?\s*$", field):
                fields.append(match.group(1) or match.group(2))
        structs[name] = fields
    enumerators = [name for body in re.findall(r"^enum kvappend_\w+ \{(.*?)\};", text, re.DOTALL | re.MULTILINE)
                   for name in re.findall(r"\bKVAPPEND_\w+", body)]
    inits = re.findall(r"^#define (KVAPPEND_\w+_INIT)\b", text, re.MULTILINE)
    functions = [(name, " ".join((result + "(" + parameters + ")").split())) for result, name, parameters in
                 re.findall(r"^KVAPPEND_API ([^;(]*?)\b(kvappend_\w+)\(([^;]*)\);", text, re.DOTALL | re.MULTILINE)]
    typedefs = re.findall(r"^typedef \w+ (kvappend_\w+);", text, re.MULTILINE)
    assert structs and enumerators and inits and functions and typedefs, "the header is not understood"
    return structs, enumerators, inits, functions, typedefs


def program(header):
    """C source that prints the list."""
    structs, enumerators, inits, functions, typedefs = declared(header)
    lines = ['printf("macro KVAPPEND_ABI_VERSION %d\\n", KVAPPEND_ABI_VERSION);']
    for name in typedefs:
        lines.append(f'printf("type {name} of %zu bytes, %s\\n", sizeof({name}), ({name})-1 < 0 ? "signed" : "unsigned");')
    for name in enumerators:
        lines.append(f'printf("enumerator {name} %d\\n", (int){name});')
    for struct, fields in structs.items():
        lines.append(f'printf("struct {struct} of %zu bytes\\n", sizeof({struct}));')
        for field in fields:
            member = f"(({struct} *)0)->{field}"
            lines.append(f'printf("field {struct}.{field} at %zu of %zu bytes\\n", offsetof({struct}, {field}), '
                         f"sizeof({member}));")
    for name in inits:
        struct = name.removesuffix("_INIT").lower()
        lines.append(f"{{ const {struct} s = {name}; const unsigned char *const b = (const unsigned char *)&s; size_t i, n = 0;")
        lines.append("for (i = sizeof(size_t); i < sizeof s; ++i) { n += b[i] != 0; }")
        lines.append(f'printf("macro {name} with size %zu and %zu bytes not zero\\n", s.struct_size, n); }}')
    for name, type_text in functions:
        lines.append(f'printf("function {name}: {type_text}\\n");')
    return "#include <kvappend/kvappend.h>\n#include <stdio.h>\nint main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n"


def compiled(header, compiler):
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "layout.c"), Path(folder, "layout")
        source.write_text(program(header), encoding="ascii")
        subprocess.run([*compiler, "-std=c99", "-I", header.parent.parent, source, "-o", binary], check=True)
        return subprocess.run([binary], check=True, capture_output=True, text=True).stdout.splitlines()


def grown(line, found):
    """Whether the line is the size of a struct that has since grown, which older programs allow for."""
    match = re.match(r"(struct \w+ of|macro \w+_INIT with size) (\d+)\b(.*)", line)
    return match and any(now.group(3) == match.group(3) and int(now.group(2)) > int(match.group(2))
                         for now in (re.match(re.escape(match.group(1)) + r"() (\d+)\b(.*)", other) for other in found)
                         if now)


def main():
    arguments = sys.argv[1:]
    record = arguments[0] == "--record"
    header, recorded, *compiler = arguments[record:]
    recorded = Path(recorded)
    found = compiled(Path(header), compiler)
    if record:
        recorded.write_text("\n".join(found) + "\n", encoding="ascii")
        return 0
    expected = recorded.read_text(encoding="ascii").splitlines()
    broken = [line for line in expected if line not in found and not grown(line, found)]
    added = [line for line in found if line not in expected]
    print(f"{len(found)} sizes, offsets, values and types")
    for line in broken:
        print("removed or changed:", line)
    for line in added:
        print("not recorded:", line)
    if broken:
        print("Programs compiled against an older header would no longer run. Give them back what they know, or another "
              "KVAPPEND_ABI_VERSION to all others.")
    if broken or added:
        print("What is new or meant to change is recorded by: meson compile -C BUILD record-abi")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
