// SPDX-License-Identifier: Apache-2.0
//! Finds the installed library: in the folder that `KVAPPEND_LIB_DIR` names, or by pkg-config.

use std::env;
use std::process::Command;

const HINT: &str =
    "libkvappend was not found: install it, and set KVAPPEND_LIB_DIR to the folder of libkvappend.so, or \
                    PKG_CONFIG_PATH to that of kvappend.pc";

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for name in [
        "KVAPPEND_LIB_DIR",
        "PKG_CONFIG",
        "PKG_CONFIG_PATH",
        "PKG_CONFIG_LIBDIR",
        "PKG_CONFIG_SYSROOT_DIR",
    ] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    // Documentation needs no library. Where documentation is built for a registry, this variable is set.
    if env::var_os("DOCS_RS").is_some() {
        return;
    }
    if let Some(folder) = env::var_os("KVAPPEND_LIB_DIR") {
        println!("cargo:rustc-link-search=native={}", folder.to_string_lossy());
        println!("cargo:rustc-link-lib=kvappend");
        return;
    }
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let output = match Command::new(&program).args(["--libs", "kvappend"]).output() {
        Ok(output) => output,
        Err(error) => panic!("{HINT}\n{program}: {error}"),
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{HINT}\n{errors}");
    for flag in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        if let Some(folder) = flag.strip_prefix("-L") {
            println!("cargo:rustc-link-search=native={folder}");
        } else if let Some(library) = flag.strip_prefix("-l") {
            println!("cargo:rustc-link-lib={library}");
        }
    }
}
