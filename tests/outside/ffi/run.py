#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The package of one language builds against an installed copy and passes its own tests. Its examples print what its
README says."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile

from installation import Installation, run, skip

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../..")
QUANTISED = "largest error: 0.0787\nrow 4 is now row 2: true"


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def version(*command):
    """The first two numbers in what the command prints."""
    major, minor = re.search(r"(\d+)\.(\d+)", run(*command)).groups()
    return int(major), int(minor)


def need(program):
    if not shutil.which(program):
        skip(f"there is no {program} in PATH")


def check_version(installation, manifest):
    """The package has the version of the library."""
    (stated,) = re.findall(r'^ *\.?version = "([\d.]+)"', read(manifest), re.MULTILINE)
    library = run("pkg-config", "--modversion", "kvappend", env=installation.environment)
    assert stated == library, f"{manifest} has the version {stated}: expected {library}"


def check_license(*paths):
    for path in paths:
        assert read(path) == read(os.path.join(ROOT, "LICENSE")), path


def check_examples(language, example, shown, quantised):
    """The README has the example, without the line of its licence, and what it prints."""
    readme = read("README.md")
    (code,) = re.findall(rf"^```{language}\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert read(example).split("\n", 1)[1].strip() == code.strip(), f"README.md: expected {example} as its example"
    (text,) = re.findall(r"^```text\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert shown.strip() == text.strip(), shown
    assert quantised.strip() == QUANTISED, quantised


def test_rust(installation, scratch):
    need("cargo")
    need("rustc")
    wanted = re.search(r'rust-version = "(\d+)\.(\d+)"', read("Cargo.toml")).groups()
    if version("rustc", "--version") < tuple(map(int, wanted)):
        skip(f"{run('rustc', '--version')}: expected Rust {'.'.join(wanted)} or later")
    check_version(installation, "Cargo.toml")
    check_license("kvappend/LICENSE", "kvappend-sys/LICENSE")
    environment = dict(installation.environment, CARGO_TARGET_DIR=scratch)
    # Distributions have the formatter and the linter in packages of their own.
    if shutil.which("rustfmt") and shutil.which("cargo-fmt"):
        run("cargo", "fmt", "--all", "--check", env=environment)
    if shutil.which("cargo-clippy"):
        run("cargo", "clippy", "--offline", "--locked", "--quiet", "--all-targets", "--", "-D", "warnings",
            env=environment)
    run("cargo", "doc", "--offline", "--locked", "--quiet", "--no-deps", env=dict(environment, RUSTDOCFLAGS="-Dwarnings"))
    tests = run("cargo", "test", "--offline", "--locked", env=environment)
    # The crates as they would be published are built, too. Before Cargo 1.90, the second one can only be built after the
    # first one is in a registry.
    if version("cargo", "--version") >= (1, 90):
        run("cargo", "package", "--workspace", "--offline", "--locked", "--allow-dirty", env=environment)
    example = ("cargo", "run", "--offline", "--locked", "--quiet", "--example")
    quantised = run(*example, "quantised", env=environment)
    # This time the library is found without pkg-config.
    folder = os.path.dirname(installation.library)
    shown = run(*example, "append", env=dict(environment, KVAPPEND_LIB_DIR=folder, PKG_CONFIG="false"))
    check_examples("rust", "kvappend/examples/append.rs", shown, quantised)
    return tests


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
    shown, quantised = (run("go", "run", f"./examples/{name}", env=environment) for name in ("append", "quantised"))
    check_examples("go", "examples/append/main.go", shown, quantised)
    return run("go", "test", "-count=1", "-v", "./...", env=environment)


def test_zig(installation, scratch):
    zig = ["zig"] if shutil.which("zig") else [sys.executable, "-m", "ziglang"]
    if len(zig) > 1 and not importlib.util.find_spec("ziglang"):
        skip(f"there is no zig in PATH, and {sys.executable} has no package ziglang")
    # A language before its version 1.0: what compiles with one may not with the next.
    tested = (0, 15), (0, 16), (0, 17)
    if version(*zig, "version") not in tested:
        skip(f"Zig {run(*zig, 'version')}: expected {', '.join(f'{major}.{minor}' for major, minor in tested)}")
    check_version(installation, "build.zig.zon")
    check_license("LICENSE")
    environment = dict(installation.environment, ZIG_GLOBAL_CACHE_DIR=scratch, ZIG_LOCAL_CACHE_DIR=scratch)

    def build(step, *options):
        """What the step and its programs print, which goes to the error stream."""
        done = subprocess.run([*zig, "build", step, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout
        return done.stdout

    run(*zig, "fmt", "--check", ".", env=environment)
    check_examples("zig", "examples/append.zig", build("example"), build("quantised"))
    return build("test", "--summary", "all")


def files():
    return {os.path.join(path, name) for path, _, names in os.walk(".") for name in names}


def main():
    language, build, scratch, sanitizers, *meson = sys.argv[1:]
    if sanitizers != "none":
        skip("a program without the sanitizers' runtime cannot use a library with them")
    os.chdir(os.path.join(ROOT, "capi", language))
    os.makedirs(scratch, exist_ok=True)
    before = files()
    with tempfile.TemporaryDirectory() as folder:
        installation = Installation(meson, build, folder)
        # pkg-config leaves out what it takes for the compiler's own folders, which are not below a scratch folder.
        installation.environment.update(PKG_CONFIG_ALLOW_SYSTEM_CFLAGS="1", PKG_CONFIG_ALLOW_SYSTEM_LIBS="1")
        tests = {"rust": test_rust, "go": test_go, "zig": test_zig}
        print(tests[language](installation, scratch))
    assert files() == before, f"left in the sources: {files() - before}"


if __name__ == "__main__":
    main()
