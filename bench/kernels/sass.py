# SPDX-License-Identifier: Apache-2.0
"""Reads the machine code of kernels, as nvdisasm prints it, for the loop in which rows are copied."""

import collections
import re

WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}


def access(instruction):
    """("ld" or "st", bytes) of an access to global memory, else None."""
    found = re.match(r"(?:@!?U?P\d+ )?(LDG|STG)((?:\.\w+)*) ", instruction)
    if not found:
        return None
    widths = [WIDTHS[part] for part in found.group(2).split(".") if part in WIDTHS]
    return ("ld" if found.group(1) == "LDG" else "st", widths[0] if widths else 4)


def functions(text):
    """Pairs of a kernel's symbol and its code: instructions, and where the labels stand among them."""
    for part in re.split(r"^//-+ \.text\.", text, flags=re.M)[1:]:
        code, labels = [], {}
        for label, instruction in re.findall(r"^(?:(\.L_x_\d+):|\s+/\*[0-9a-f]+\*/\s+(.*?) ?;)", part, flags=re.M):
            if label:
                labels[label] = len(code)
            else:
                code.append(instruction)
        yield part.split()[0], code, labels


def copying_loop(code, labels, width):
    """First and last instruction of the innermost loop with the most loads and stores of so many bytes."""
    loops = []
    for at, instruction in enumerate(code):
        target = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", instruction)
        if target and labels[target.group(1)] <= at:
            moved = collections.Counter(access(i) for i in code[labels[target.group(1)]:at + 1])
            if moved["ld", width] and moved["st", width]:
                loops.append((labels[target.group(1)], at, moved["st", width]))
    innermost = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    return max(innermost, key=lambda loop: loop[2])[:2] if innermost else None


def facts(texts, name_of):
    """kernel -> facts of its machine code."""
    found = {}
    for text in texts:
        for symbol, code, labels in functions(text):
            name = name_of(symbol)
            found[name] = {"instructions": sum(not i.startswith("NOP") for i in code)}
            width = int(name.partition("/")[0].rsplit("_b", 1)[1]) if "_b" in name else None
            loop = copying_loop(code, labels, width) if width else None
            if loop is None:
                continue
            body = code[loop[0]:loop[1] + 1]
            accesses = [one for one in map(access, body) if one]
            stores = accesses.count(("st", width))
            before = accesses[:accesses.index(("st", width))]
            found[name]["loop"] = {
                "instructions": len(body), "load_bytes": width, "loads": accesses.count(("ld", width)),
                "store_bytes": width, "stores": stores, "loads_before_first_store": before.count(("ld", width)),
                "instructions_per_16_bytes": len(body) * 16 / (stores * width)}
    return found
