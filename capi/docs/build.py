#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Builds the site, and fails upon a warning of Doxygen's, a link or image that leads nowhere, a declaration of the C
header without documentation, a declaration or a guide that the search does not find, an example that no guide shows,
or code in a guide that no test compiles."""

import html.parser
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import xml.etree.ElementTree

PUBLIC = {"function", "typedef", "enum", "variable", "define"}


class Links(html.parser.HTMLParser):
    """The addresses that a page refers to, and the anchors that it has."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("href", "src", "data") and value:
                self.addresses.append(value)
            elif name in ("id", "name"):
                self.anchors.add(value)


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def files(folder, *suffixes):
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(suffixes))


def run_doxygen(doxygen, doxyfile, site):
    shutil.rmtree(site, ignore_errors=True)
    os.makedirs(site)
    # This Doxygen's own header, in which the name of the project leads to the start page.
    header = os.path.join(site, "header.html")
    subprocess.run([doxygen, "-w", "html", header, os.path.join(site, "footer.html"), os.path.join(site, "style.css")],
                   check=True, capture_output=True)
    text = read(header)
    linked = re.sub(r'(id="projectname">)\s*\$projectname', r'\1<a href="$relpath^index.html">$projectname</a>', text)
    if linked == text:
        sys.exit("Doxygen's header shows no name of the project")
    with open(header, "w", encoding="utf-8") as file:
        file.write(linked)
    settings = f'\nOUTPUT_DIRECTORY = "{site}"\nHTML_HEADER = "{header}"\n'
    done = subprocess.run([doxygen, "-"], input=read(doxyfile) + settings, text=True, stderr=subprocess.PIPE,
                          check=False)
    warnings = [line for line in done.stderr.splitlines() if re.search(r"\b(warning|error):", line)]
    if done.returncode != 0 or warnings:
        sys.exit(f"{done.stderr}\n{len(warnings)} warnings, and exit status {done.returncode}")


def dead_links(pages):
    """(page, address) of all that are relative and lead to no file, or to no anchor of a page."""
    found = {page: Links(read(page)) for page in pages}
    count, dead = 0, []
    for page, links in found.items():
        for address in links.addresses:
            parts = urllib.parse.urlsplit(address)
            if parts.scheme or parts.netloc or address.startswith("javascript:"):
                continue
            count += 1
            path = urllib.parse.unquote(parts.path)
            target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
            if not os.path.exists(target):
                dead.append((page, address))
            elif parts.fragment and target in found and parts.fragment not in found[target].anchors:
                dead.append((page, address))
    return count, dead


def dead_links_of_guide(guide, site):
    """Those of the Markdown itself: files beside it, as they are seen without Doxygen."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", read(guide), flags=re.DOTALL)
    addresses = re.findall(r"\]\(([^)\s]+)[^)]*\)", text)
    return [(guide, address) for address in addresses
            if not urllib.parse.urlsplit(address).scheme and not address.startswith("@ref")
            and not os.path.exists(os.path.join(os.path.dirname(guide), address.split("#")[0]))]


def members(xml_folder):
    """(file, name, whether it is documented) of all that the headers declare."""
    for path in files(xml_folder, ".xml"):
        for compound in xml.etree.ElementTree.parse(path).getroot().iter("compounddef"):
            if compound.get("kind") not in ("file", "group", "struct", "class", "namespace"):
                continue
            alone = [] if compound.get("kind") in ("file", "group") else [compound]
            for one in list(compound.iter("memberdef")) + alone:
                if one.tag == "memberdef" and one.get("kind") not in PUBLIC:
                    continue
                where = one.find("location").get("file") if one.find("location") is not None else ""
                name = one.findtext("name") or one.findtext("compoundname")
                for each in [one] + list(one.iter("enumvalue")):
                    told = any("".join((each.find(tag) if each.find(tag) is not None else each).itertext()).strip()
                               for tag in ("briefdescription", "detaileddescription") if each.find(tag) is not None)
                    yield where, each.findtext("name") or name, told


def declarations(header):
    """The names of all functions, constants and fields of the C header."""
    text = re.sub(r"/\*.*?\*/", "", read(header), flags=re.DOTALL)
    declared = set(re.findall(r"^KVAPPEND_API [^;(]*?\b(kvappend_\w+)\(", text, re.MULTILINE))
    declared |= set(re.findall(r"^\s+(KVAPPEND_\w+) = ", text, re.MULTILINE))
    for fields in re.findall(r"^typedef struct kvappend_\w+ \{\n(.*?)^\} ", text, re.MULTILINE | re.DOTALL):
        for pointer, field in re.findall(r"\(\*(\w+)\)\(|\b(\w+)(?:\[\d\])?;", fields):
            declared.add(pointer or field)
    return declared


def check_documented(xml_folder, declared):
    """That all of the C header is in the output, and has words there."""
    found = [(name, told) for where, name, told in members(xml_folder) if where.endswith(".h")]
    names = {name for name, _ in found}
    missing = sorted(declared - names) + sorted(name for name, told in found if not told)
    if missing or len(declared) < 100:
        sys.exit(f"{len(missing)} of {len(declared)} without documentation: {', '.join(missing)}")
    return len(found)


def check_search(html_folder, declared, guides):
    """That the search field finds all of the C header, and every guide by its title."""
    found = "".join(read(path) for path in files(os.path.join(html_folder, "search"), ".js"))
    titles = [re.match(r"# (.*?) \{#", read(guide)) for guide in guides if guide.endswith(".md")]
    searched = declared | {title[1].replace("'", "&apos;") for title in titles if title}
    missing = sorted(name for name in searched if f"['{name}'," not in found)
    if missing:
        sys.exit(f"the search does not find {', '.join(missing)}")
    return len(searched)


def check_examples(guides, examples):
    """That guides show compiled code alone, and every example is shown. Gives the number of pieces of code shown."""
    shown = []
    for guide in guides:
        text = read(guide)
        if re.search(r"^```(c|cpp|cuda|\{\.c)", text, re.MULTILINE):
            sys.exit(f"{guide} has code that is not from an example")
        shown += re.findall(r"^\\(?:snippet|include) (\S+)", text, re.MULTILINE)
        shown += re.findall(r"\\example (\S+)", text)
    for name in examples:
        if shown.count(name) < (1 if name == "readme.c" else 2):
            sys.exit(f"{name} is not shown: it needs a place in a guide and an \\example in examples.dox")
    unknown = set(shown) - set(examples)
    if unknown:
        sys.exit(f"not compiled: {unknown}")
    return len(shown)


def main():
    doxygen, doxyfile, source, site, *examples = sys.argv[1:]
    run_doxygen(doxygen, doxyfile, site)
    docs = os.path.join(source, "capi", "docs")
    guides = files(docs, ".md", ".dox")
    snippets = check_examples(guides, examples)
    declared = declarations(os.path.join(source, "include/kvappend/kvappend.h"))
    documented = check_documented(os.path.join(site, "xml"), declared)
    searched = check_search(os.path.join(site, "html"), declared, guides)
    pages = files(os.path.join(site, "html"), ".html")
    links, dead = dead_links(pages)
    for guide in guides:
        dead += dead_links_of_guide(guide, site)
    if dead:
        sys.exit("\n".join(f"{page}: {address} leads nowhere" for page, address in dead))
    print(f"{len(pages)} pages, {len(guides)} guides, {snippets} pieces of {len(examples)} examples, {documented} "
          f"declarations of the C headers, {searched} found by the search, {links} links; 0 warnings, 0 undocumented, "
          f"0 dead links")
    print(f"begin at {site}/html/index.html")


if __name__ == "__main__":
    main()
