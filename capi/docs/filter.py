#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Doxygen's input filter for the public headers: they keep ordinary comments, and Doxygen gets to see them as its own.

A comment before a declaration documents it, and one after a field or an enumerator documents that. A banner of the C
header begins a group, which has the text of the banner and the declarations up to the next one. What the C header
leaves to a rule (struct_size, the bytes of a buffer, the init functions, the table of functions) is said here once. No
line moves, so that Doxygen's messages name the header's lines.
"""

import os
import re
import sys

COMMENT = re.compile(r"// SPDX[^\n]*|/\*.*?\*/|//[^\n]*(?:\n[ \t]*//[^\n]*)*", re.DOTALL)
SECTION = re.compile(r"/\* ---- (.+) ---- \*/")
BANNER = re.compile(r"/\* =+\n \* ([A-Z ]+): (.+)\n \* =+\n(.*)\*/", re.DOTALL)
NOT_FOR_READERS = re.compile(r"/[*/]\s*(SPDX-|clang-format|NOLINT|namespace |extern |---- )")
# Doxygen takes a specialisation that the general template derives from for a circle.
PRIVATE_BASE = re.compile(r"(?<=\w) : private [\w:<>]+(?= \{)")
SCOPE = re.compile(r"\b(namespace|class|struct|union|enum|extern)\b[^()=]*$")
FUNCTION = re.compile(r"KVAPPEND_API [^;(]*?\b(kvappend_\w+)\(")
FIELD_RULES = [
    (re.compile(r"    size_t struct_size;"), "sizeof this struct, set by the caller"),
    (re.compile(r"    size_t (\w+)_bytes;"), r"Bytes that may be accessed from \1 on; 0: unknown, and not checked."),
    (re.compile(r"    .*\(\*(\w+)\)\(.*"), r"kvappend_\1()"),
]


def group_of(banner):
    return "header_" + banner.lower().replace(" ", "_")


def links_for(text):
    """What turns the names that a comment mentions into links, where this text declares them."""
    functions = set(FUNCTION.findall(text))
    constants = set(re.findall(r"^\s+(KVAPPEND_\w+) = |^#define (KVAPPEND_\w+)\b", text, re.MULTILINE))
    banners = "|".join(re.findall(r"^/\* =+\n \* ([A-Z ]+): ", text, re.MULTILINE))
    reference = re.compile(rf"(\b(?:[Ss]ee|under|as)(?: |\n *\* )|^ \* - )({banners})\b", re.MULTILINE)
    constants = {name for pair in constants for name in pair}
    # The enumeration that KVAPPEND_BACKEND_* means, and so on.
    enums = {first: name for name, first in re.findall(r"^enum (\w+) \{\s*(?:/\*.*?\*/\s*)?(KVAPPEND_[A-Z]+_)", text,
                                                       re.MULTILINE | re.DOTALL)}

    def link(found):
        name = found[0]
        return name + "()" if name in functions else "#" + name if name in constants else name

    def in_line(line):
        if re.match(r"( \*|//)     ", line):
            return line  # Code.
        line = re.sub(r"(?<![#\w])(kvappend|KVAPPEND)_\w+\b(?!\()", link, line)
        line = re.sub(r"\b(KVAPPEND_[A-Z]+_)\*",
                      lambda found: f'\\ref {enums[found[1]]} "{found[0]}"' if found[1] in enums else found[0], line)
        # In front of a word it is C's asterisk, and not the beginning of emphasis.
        line = re.sub(r"(?<=[ (,])\*(?=[A-Za-z])", r"\\*", line)
        line = line.replace("]:", "] :")  # It is a shape, and not the address of a link.
        return re.sub(r"^( \*|//) ([A-Z][A-Z ]+)\. ", r"\1 **\2.** ", line)

    def in_comment(comment):
        comment = "\n".join(in_line(line) for line in comment.split("\n"))
        comment = re.sub(r"(?<=\n \*\n \* )((?:THE |A )?[A-Z]{4,})(?= [a-z])", r"**\1**", comment)
        return reference.sub(lambda found: f'{found[1]}\\ref {group_of(found[2])} "{found[2]}"', comment)

    return in_comment


def in_declarations(text):
    """For each place of the text whether it is outside the bodies of functions."""
    scopes, head, outside = [], "", []
    for character in COMMENT.sub(lambda comment: re.sub(r"[^\n]", " ", comment[0]), text):
        outside.append(all(scopes))
        if character == "{":
            scopes.append(bool(SCOPE.search(head)))
        elif character == "}" and scopes:
            scopes.pop()
        head = "" if character in "{};" else head + character
    return outside


def with_documentation(text, name, names):
    """The comments of the file of this name as Doxygen's, with links to what the text `names` declares."""
    links = links_for(names)
    outside = in_declarations(text)
    told = {"file": False, "section": False, "group": False}

    def documentation(found):
        comment = found[0]
        before = text[text.rfind("\n", 0, found.start()) + 1:found.start()]
        section = SECTION.fullmatch(comment)
        if section:
            end = "/**@}*/ " if told["section"] else ""
            told["section"] = True
            return f"{end}/** \\name {section[1].capitalize()} */ /**@{{*/"
        banner = BANNER.fullmatch(comment)
        if banner:
            title, subject, words = banner.groups()
            end = "/**\\}*/ " if told["group"] else ""
            told["group"] = True
            shown = title if title == "CUDA" else title.capitalize()
            return f"{end}/** \\defgroup {group_of(title)} {shown}: {subject}\n *\n *\n{links(words)}\\{{ */"
        if NOT_FOR_READERS.match(comment) or not outside[found.start()]:
            return comment
        mark = "<" if before.strip() else ""
        if not mark and not told["file"]:
            told["file"] = True
            mark = f" \\file {name}"
        if comment.startswith("//"):
            comment = re.sub(r"^(\s*)//", r"\1///", links(comment), flags=re.MULTILINE)
            return comment.replace("///", "///" + mark, 1)
        return "/**" + mark + links(comment)[2:]

    text = PRIVATE_BASE.sub("", COMMENT.sub(documentation, text))
    return text + "/**@}*/\n" if told["section"] or told["group"] else text


def with_rules(text):
    """What the C header says of several things at once, or of all of a kind, at each of them.

    A comment counts for what it stands at, and for what comes behind that without one, up to an empty line.
    """
    like, struct, previous, lines, at_end = None, None, "", [], []
    for line in text.split("\n"):
        declaration = re.sub(r"/\*\*.*?\*/|/\*\*.*", "", line).rstrip()
        documented = "/**<" in line or previous.endswith("*/") and not re.search(r"/\*\*<|/\* clang-format", previous)
        begin = re.match(r"typedef struct (kvappend_\w+) \{", line)
        field = re.match(r"    (?:\w+ )+\*?(\w+)(?:\[\d\])?;", declaration)
        function = FUNCTION.match(line)
        macro = re.match(r"#define (KVAPPEND_[A-Z_]+) ", line)
        rules = [found.expand(words) for pattern, words in FIELD_RULES if (found := pattern.fullmatch(declaration))]
        name = f"{struct}::{field[1]}" if field else f"{function[1]}()" if function else macro[1] if macro else None
        if begin:
            struct = begin[1]
        if not line or begin:
            like = None
        if name and documented and not (function and "/**<" in line):
            like = name
        elif rules and not documented:
            line = f"/** {rules[0]} */ {line}"
        elif function and (like or function[1].endswith("_init")):
            line = f"/** \\copydoc {like or 'kvappend_descriptor_init()'} */ {line}"
        elif field and like:
            line = f"/** \\copydoc {like} */ {line}"
        elif macro and like:
            at_end.append(f"/** \\def {name}\n * \\copydoc {like} */")
        previous = line
        lines.append(line)
    for name in re.findall(r"^#define KVAPPEND_(\w+)_INIT\b", text, re.MULTILINE):
        at_end.append(f"/** \\def KVAPPEND_{name}_INIT\n"
                      f" * The initial value of a kvappend_{name.lower()}: all zero except its struct_size. */")
    for name in re.findall(r"^#define KVAPPEND_(\w+)\(\.\.\.\)", text, re.MULTILINE):
        at_end.append(f"/** \\def KVAPPEND_{name}\n"
                      f" * A kvappend_{name.lower()} with these fields, by C99's or C++20's designated initialisers. */")
    return "\n".join(lines + at_end)


def main():
    path = sys.argv[1]
    folder = os.path.dirname(path)
    texts = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            texts[name] = file.read()
    name = os.path.basename(path)
    text = with_documentation(texts[name], name, "\n".join(texts.values()))
    sys.stdout.write(with_rules(text) if path.endswith(".h") else text)


if __name__ == "__main__":
    main()
