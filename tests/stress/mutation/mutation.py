#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Changes the library in one place at a time, and says which changes no test notices.

mutation.py BUILD [--only TEXT] [--jobs N]   runs the tests for each mutation of mutations.txt, in the folder BUILD
mutation.py --check                          says whether mutations.txt is in step with the sources

One build serves nearly all mutations: the sources are copied to BUILD, and in the copy each mutation becomes a choice
between the code as it is and the code as it is changed. The environment variable KVAPPEND_MUTATION is the number of
the mutation that is chosen. `!` marks a mutation where the code must be a constant; it has a build of its own.

A mutation is killed by the first program that fails, crashes or hangs. The exit status is 1 if any survives."""

import argparse
import concurrent.futures
import os
import re
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "..", "..", ".."))
LIST = os.path.join(HERE, "mutations.txt")

# Each program, with its environment and with a pattern of the files in which it can notice a change. A mutation is
# tried by the programs in this order, except for those of FIRST. Programs that need more tools are left out.
HOST_ONLY, CUDA_ONLY = r"(?!src/cuda/)", r"(?!src/host/)"
FAST = "~[large]~[shared]"
GUARDED = ["tests/stress/hostile/suite_guarded", "[addressing],[random],[layers],[dense]"]
PROGRAMS = {
    "host": (["tests/suite/suite_host", FAST], {}, HOST_ONLY),
    "emulated": (["tests/suite/suite_emulated", FAST], {}, CUDA_ONLY),
    "layout": (["tests/suite/layout_test"], {}, r"src/(cuda/(move_)?layout|problem|tensor|moved)"),
    "place": (["tests/suite/place_test"], {}, r"src/(cuda/(place|load)|[a-z]+\.)"),
    "status": (["tests/suite/status_test"], {}, r"src/status"),
    "format": (["tests/suite/format_test"], {}, r"src/format"),
    "codes": (["tests/stress/faults/cuda_codes"], {}, CUDA_ONLY),
    "memory": (["tests/stress/faults/memory_faults"], {}, HOST_ONLY),
    "memory CUDA": (["tests/stress/faults/memory_faults_cuda"], {}, CUDA_ONLY),
    "quiet": (["tests/stress/quiet/quiet"], {}, HOST_ONLY),
    "quiet CUDA": (["tests/stress/quiet/quiet_cuda"], {}, CUDA_ONLY),
    "threads": (["tests/suite/threads_host"], {}, r"src/(host/|plan)"),
    "process": (["tests/stress/faults/process_faults"], {}, r"src/host/(thread|backend)"),
    "guarded at end": (GUARDED, {"KVAPPEND_TEST_BLOCKS": "end"}, r"src/(host/|place|tensor)"),
    "guarded at begin": (GUARDED, {"KVAPPEND_TEST_BLOCKS": "begin"}, r"src/(host/|place|tensor)"),
    "shared": (["tests/suite/suite_host", "[shared]"], {}, r"src/host/"),
}
# The likeliest killers of the mutations of a file.
FIRST = {
    r"src/cuda/(move_)?layout": ["layout"],
    r"src/format": ["format"],
    r"src/place": ["place"],
    r"src/status": ["status"],
    r"src/host/thread": ["threads"],
    r"src/host/launch": ["shared"],
}

HEADER = """\
#pragma once
#include <cstdlib>
// A function that inlines all that it calls would take minutes to compile, because of the choices in it.
#define flatten unused
inline int chosen_mutation() {
    static const int chosen = [] {
        const char *const number = std::getenv("KVAPPEND_MUTATION");
        return number != nullptr ? std::atoi(number) : 0;
    }();
    return chosen;
}
// Code that is run to make a constant is never changed.
constexpr bool mutated(int number) { return !__builtin_is_constant_evaluated() && chosen_mutation() == number; }
"""


class Mutation:
    def __init__(self, number, file, old, new, context, alone):
        self.number, self.file, self.old, self.new, self.context, self.alone = number, file, old, new, context, alone
        self.begin = self.end = None

    def __str__(self):
        return f"{self.number:3} {self.file}:{self.line}: {self.old}  ==>  {self.new or '(nothing)'}"


def fail(message):
    sys.exit(f"mutations.txt: {message}")


def read_list():
    """A section for each file, and a line for each mutation: see mutations.txt."""
    mutations, file = [], None
    with open(LIST, encoding="utf-8") as lines:
        for line in map(str.strip, lines):
            if not line or line.startswith("#"):
                continue
            code, arrow, new = line.partition("==>")
            if not arrow and line.startswith("[") and line.endswith("]"):
                file = line[1:-1]
                continue
            if not arrow or file is None:
                fail(f"expected [file], or `code ==> what becomes of it`: {line}")
            alone = code.startswith("! ")
            old, _, context = code[2 if alone else 0:].partition(" @ ")
            mutations.append(Mutation(len(mutations) + 1, file, old.strip(), new.strip(), context.strip(), alone))
    return mutations


def find(text, wanted, where):
    """Where the wanted text is, which must be there once; any white space is as good as any other."""
    pattern = r"\s+".join(re.escape(word) for word in wanted.split())
    found = list(re.finditer(pattern, text))
    if len(found) != 1:
        fail(f"{where}: occurs {len(found)} times, expected once: {wanted}")
    return found[0].span()


def locate(mutations):
    """Finds each mutation in its file."""
    sources = {}
    for m in mutations:
        if m.file not in sources:
            with open(os.path.join(ROOT, m.file), encoding="utf-8") as source:
                sources[m.file] = source.read()
        text = sources[m.file]
        begin, end = find(text, m.context or m.old, m.file)
        inner = find(text[begin:end], m.old, f"{m.file}: {m.context}")
        m.begin, m.end = begin + inner[0], begin + inner[1]
        m.line = text.count("\n", 0, m.begin) + 1
    return sources


def choice(mutations, code):
    """The code, or what one of the mutations of the same piece of code makes of it."""
    if mutations[0].old.endswith(";"):
        for m in mutations:
            code = f"{{ if (mutated({m.number})) {{ {m.new} }} else {{ {code} }} }}"
        return code
    for m in mutations:
        code = f"(mutated({m.number}) ? ({m.new}) : ({code}))"
    return code


def apply(text, mutations):
    """All mutations of a file as choices, those within others inside of them."""
    pieces = {}
    for m in mutations:
        pieces.setdefault((m.begin, m.end), []).append(m)
    ordered = sorted(pieces, key=lambda piece: (piece[0], -piece[1]))

    def build(begin, end):
        out, at = "", begin
        while ordered and ordered[0][0] < end:
            piece = ordered.pop(0)
            if piece[1] > end:
                fail(f"{pieces[piece][0]} overlaps another")
            out += text[at:piece[0]] + choice(pieces[piece], build(*piece))
            at = piece[1]
        return out + text[at:end]

    return build(0, len(text))


def write_if_new(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path):
        with open(path, "rb") as file:
            if file.read() == data:
                return
    with open(path, "wb") as file:
        file.write(data)


def copy_sources(folder, changed):
    """The files of the repository as they stand, but for the changed ones."""
    files = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", "-co", "--exclude-standard"],
                           check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, files):
        path = os.path.join(ROOT, name)
        if not os.path.isfile(path):
            continue
        with open(path, "rb") as file:
            data = file.read()
        target = os.path.join(folder, name)
        write_if_new(target, changed[name].encode() if name in changed else data)
        if os.access(path, os.X_OK):
            os.chmod(target, 0o755)


def build(folder, jobs):
    source, build_folder = os.path.join(folder, "source"), os.path.join(folder, "build")
    header = os.path.join(folder, "mutated.hpp")
    write_if_new(header, HEADER.encode())
    if not os.path.exists(os.path.join(build_folder, "build.ninja")):
        subprocess.run(["meson", "setup", build_folder, source, "-Dcuda=disabled", "-Dbench=disabled",
                        "-Ddocs=disabled", "-Doptimization=1", "-Ddebug=false", "-Db_ndebug=true",
                        f"-Dcpp_args=['-include', '{header}', '-w']"], check=True, stdout=subprocess.DEVNULL)
    targets = sorted({command[0] for command, _, _ in PROGRAMS.values()})
    done = subprocess.run(["ninja", "-C", build_folder, f"-j{jobs}", *targets], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stdout[-5000:] + done.stderr)


def programs_for(file):
    """The names of the programs to run, the likeliest killers first."""
    first = next((names for pattern, names in FIRST.items() if re.match(pattern, file)), [])
    able = [name for name, (_, _, files) in PROGRAMS.items() if re.match(files, file)]
    return sorted(able, key=lambda name: name not in first)


def run(folder, name, number, limit):
    """None, or how the program noticed the mutation."""
    command, settings, _ = PROGRAMS[name]
    path = os.path.join(folder, "build", command[0])
    environment = dict(os.environ, KVAPPEND_MUTATION=str(number), **settings)
    try:
        status = subprocess.run([path, *command[1:], "--abort", "--rng-seed", "1"], env=environment, timeout=limit,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
    except subprocess.TimeoutExpired:
        return "hangs"
    return None if status == 0 else "crashes" if status < 0 else "fails"


def measure(folder, names):
    """How long each program may take: it must pass unchanged."""
    limits = {}
    for name in names:
        begin = time.monotonic()
        if (how := run(folder, name, 0, 1800)) is not None:
            sys.exit(f"{name} {how} with no mutation chosen")
        limits[name] = 20 + 5 * (time.monotonic() - begin)
        print(f"{name}: {time.monotonic() - begin:.1f} s unchanged", flush=True)
    return limits


def try_mutation(folder, mutation, limits):
    for name in programs_for(mutation.file):
        how = run(folder, name, mutation.number, limits[name])
        if how is not None:
            return f"killed by {name}, which {how}"
    return None


def report(mutation, killer, survivors):
    print(f"{mutation}: {killer or 'SURVIVED'}", flush=True)
    if killer is None:
        survivors.append(mutation)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("build", nargs="?")
    arguments.add_argument("--check", action="store_true")
    arguments.add_argument("--only", default="", help="mutations whose number, or file and text, matches this pattern")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count())
    options = arguments.parse_args()
    mutations = read_list()
    sources = locate(mutations)
    if options.check or options.build is None:
        print(f"{len(mutations)} mutations are in step with the sources")
        return
    folder = os.path.abspath(options.build)
    together = {file: apply(text, [m for m in mutations if m.file == file and not m.alone])
                for file, text in sources.items()}
    chosen = [m for m in mutations if re.search(options.only, str(m))]
    begin = time.monotonic()
    copy_sources(os.path.join(folder, "source"), together)
    build(folder, options.jobs)
    limits = measure(folder, PROGRAMS)
    survivors = []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        waiting = {pool.submit(try_mutation, folder, m, limits): m for m in chosen if not m.alone}
        for done in concurrent.futures.as_completed(waiting):
            report(waiting[done], done.result(), survivors)
    for m in chosen:
        if m.alone:
            text = sources[m.file]
            changed = dict(together, **{m.file: text[:m.begin] + m.new + text[m.end:]})
            copy_sources(os.path.join(folder, "source"), changed)
            build(folder, options.jobs)
            report(m, try_mutation(folder, m, limits), survivors)
    print(f"{len(chosen)} mutations, {len(chosen) - len(survivors)} killed, {len(survivors)} survived, "
          f"{time.monotonic() - begin:.0f} s")
    for m in sorted(survivors, key=lambda survivor: survivor.number):
        print(f"survived: {m}")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
