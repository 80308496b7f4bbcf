#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The package of one language builds against an installed copy, found by pkg-config, and passes its own tests."""

import importlib.util
import os
import re
import shutil
import sys
import tempfile

from installation import Installation, run, skip

SOURCE = os.path.dirname(os.path.abspath(__file__))


def version(*command):
    """The first two numbers in what the command prints."""
    major, minor = re.search(r"(\d+)\.(\d+)", run(*command)).groups()
    return int(major), int(minor)


def need(program):
    if not shutil.which(program):
        skip(f"there is no {program} in PATH")


def test_rust(installation, scratch):
    need("cargo")
    need("rustc")
    with open("Cargo.toml", encoding="utf-8") as file:
        wanted = re.search(r'rust-version = "(\d+)\.(\d+)"', file.read()).groups()
    if version("rustc", "--version") < tuple(map(int, wanted)):
        skip(f"{run('rustc', '--version')}: expected Rust {'.'.join(wanted)} or later")
    environment = dict(installation.environment, CARGO_TARGET_DIR=scratch)
    # Distributions have the formatter and the linter in packages of their own.
    if shutil.which("rustfmt") and shutil.which("cargo-fmt"):
        run("cargo", "fmt", "--all", "--check", env=environment)
    if shutil.which("cargo-clippy"):
        run("cargo", "clippy", "--offline", "--locked", "--quiet", "--all-targets", "--", "-D", "warnings",
            env=environment)
    return run("cargo", "test", "--offline", "--locked", env=environment)


def test_go(installation, scratch):
    need("go")
    go = version("go", "env", "GOVERSION")
    if go < (1, 19):
        skip(f"Go {go[0]}.{go[1]}: expected Go 1.19 or later")
    # Go would take what pkg-config said before, and objects made from another header, from its cache.
    shutil.rmtree(os.path.join(scratch, "cache"), ignore_errors=True)
    # By the checker of what is passed to C; it was an option of the program before it became one of the compiler.
    checker = {"GODEBUG": "cgocheck=2"} if go < (1, 21) else {"GOEXPERIMENT": "cgocheck2"}
    environment = dict(installation.environment, CGO_ENABLED="1", GOCACHE=os.path.join(scratch, "cache"),
                       GOPATH=os.path.join(scratch, "path"), GOENV="off", GOFLAGS="-mod=readonly", GOPROXY="off",
                       GOTOOLCHAIN="local", **checker)
    unformatted = run("gofmt", "-l", ".") if shutil.which("gofmt") else ""
    assert not unformatted, f"gofmt would change {unformatted}"
    run("go", "vet", "./...", env=environment)
    return run("go", "test", "-count=1", "-v", "./...", env=environment)


def test_zig(installation, scratch):
    zig = ["zig"] if shutil.which("zig") else [sys.executable, "-m", "ziglang"]
    if len(zig) > 1 and not importlib.util.find_spec("ziglang"):
        skip(f"there is no zig in PATH, and {sys.executable} has no package ziglang")
    # A language before its version 1.0: what compiles with one may not with the next.
    tested = (0, 15), (0, 16), (0, 17)
    if version(*zig, "version") not in tested:
        skip(f"Zig {run(*zig, 'version')}: expected {', '.join(f'{major}.{minor}' for major, minor in tested)}")
    environment = dict(installation.environment, ZIG_GLOBAL_CACHE_DIR=scratch, ZIG_LOCAL_CACHE_DIR=scratch)
    flags = ["-lc", *installation.flags()]
    interface = "c.zig"
    if version(*zig, "version") >= (0, 17):
        header = installation.find("/kvappend.h")
        interface = os.path.join(scratch, "c.zig")
        with open(interface, "w", encoding="utf-8") as file:
            file.write(run(*zig, "translate-c", "-lc", header, env=environment))
    run(*zig, "fmt", "--check", ".", env=environment)
    # Zig's report goes to the error stream, where there is something to report.
    return run(*zig, "test", *flags, "--dep", "c", "-Mroot=append.zig", *flags, f"-Mc={interface}", env=environment)


def main():
    language, build, scratch, sanitizers, *meson = sys.argv[1:]
    if sanitizers != "none":
        skip("a program without the sanitizers' runtime cannot use a library with them")
    os.chdir(os.path.join(SOURCE, language))
    os.makedirs(scratch, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tests = {"rust": test_rust, "go": test_go, "zig": test_zig}
        print(tests[language](Installation(meson, build, folder), scratch))


if __name__ == "__main__":
    main()
