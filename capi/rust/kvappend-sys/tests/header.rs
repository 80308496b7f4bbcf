// SPDX-License-Identifier: Apache-2.0
//! The declarations and the installed header say the same. Each Rust declaration becomes a C assertion, which the C
//! compiler holds against the header; and the header has no name that Rust does not.

use kvappend_sys::{declare::Field, CONSTANTS, FUNCTIONS, STRUCTS};
use std::collections::BTreeSet;
use std::env;
use std::io::Write;
use std::process::{Command, Stdio};

const INCLUDE: &str = "#include <kvappend/kvappend.h>\n";

/// What the C compiler prints for `source`, which it must accept.
fn compile(options: &[&str], source: &str) -> String {
    let flags = Command::new("pkg-config")
        .args(["--cflags", "kvappend"])
        .output()
        .expect("pkg-config");
    assert!(flags.status.success(), "{}", String::from_utf8_lossy(&flags.stderr));
    let flags = String::from_utf8(flags.stdout).expect("flags");
    let mut compiler = Command::new(env::var("CC").unwrap_or_else(|_| "cc".to_owned()))
        .args(["-std=gnu11", "-Werror", "-xc"])
        .args(options)
        .args(flags.split_whitespace())
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a C compiler");
    compiler
        .stdin
        .take()
        .expect("its input")
        .write_all(source.as_bytes())
        .expect("written");
    let output = compiler.wait_with_output().expect("its end");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The C type of a Rust type.
fn in_c(rust: &str) -> String {
    if let Some(pointee) = rust.strip_prefix("*const ") {
        return format!("{} const *", in_c(pointee));
    }
    if let Some(pointee) = rust.strip_prefix("*mut ") {
        return format!("{} *", in_c(pointee));
    }
    if let Some((element, count)) = rust.strip_prefix('[').and_then(|array| array.split_once(';')) {
        return format!("{}[{}", in_c(element.trim()), count.trim());
    }
    match rust {
        "i32" => "int32_t",
        "i64" => "int64_t",
        "u32" => "uint32_t",
        "usize" => "size_t",
        "f32" => "float",
        "c_char" => "char",
        "c_void" => "void",
        "CUstream_st" => "struct CUstream_st",
        name => name,
    }
    .to_owned()
}

/// The C type of a field: of a function in a table it is that of the function itself.
fn field_in_c(field: &Field) -> String {
    if field.kind.starts_with("Option") {
        format!("__typeof__(&kvappend_{})", field.name)
    } else {
        in_c(field.kind)
    }
}

#[test]
fn declarations_are_the_headers() {
    let mut source = INCLUDE.to_owned();
    let mut assert = |condition: String, what: &str| {
        source += &format!("_Static_assert({condition}, \"{what}\");\n");
    };
    for constant in CONSTANTS {
        assert(format!("{} == {}", constant.name, constant.value), constant.name);
    }
    for structure in STRUCTS {
        let name = structure.name;
        assert(format!("sizeof({name}) == {}", structure.size), name);
        for field in structure.fields {
            // `type` is a keyword of Rust.
            let field_name = field.name.strip_prefix("r#").unwrap_or(field.name);
            let access = format!("(({name} *)0)->{field_name}");
            let what = format!("{name}.{field_name}");
            assert(format!("offsetof({name}, {field_name}) == {}", field.offset), &what);
            assert(format!("sizeof({access}) == {}", field.size), &what);
            assert(
                format!(
                    "__builtin_types_compatible_p(__typeof__({access}), {})",
                    field_in_c(field)
                ),
                &what,
            );
        }
    }
    for function in FUNCTIONS {
        let arguments: Vec<_> = function.arguments.iter().map(|argument| in_c(argument)).collect();
        let arguments = if arguments.is_empty() {
            "void".to_owned()
        } else {
            arguments.join(", ")
        };
        source += &format!("{} {}({arguments});\n", in_c(function.result), function.name);
    }
    compile(&["-fsyntax-only"], &source);
}

#[test]
fn the_header_has_nothing_else() {
    let mut declared: BTreeSet<_> = CONSTANTS.iter().map(|constant| constant.name).collect();
    declared.extend(STRUCTS.iter().map(|structure| structure.name));
    declared.extend(FUNCTIONS.iter().map(|function| function.name));
    declared.extend(["kvappend_plan", "kvappend_status"]);
    // Enumerations have tags in the header, and are plain integers where they cross the interface.
    let header = compile(&["-E", "-P"], INCLUDE);
    let words = header
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty());
    let mut before = "";
    let mut seen = 0;
    for word in words {
        if word.to_lowercase().starts_with("kvappend_") && before != "enum" {
            assert!(declared.contains(word), "{word} is not declared in Rust");
            seen += 1;
        }
        before = word;
    }
    assert!(seen >= declared.len() - 1, "only {seen} names found in the header");
}

#[test]
fn structs_have_no_padding_and_so_no_missing_field() {
    for structure in STRUCTS {
        let fields: usize = structure.fields.iter().map(|field| field.size).sum();
        assert_eq!(fields, structure.size, "{}", structure.name);
    }
}

/// By this the types of the table's functions, which the C compiler has not seen, are those of the functions, which it
/// has; and the table of the library is the one declared.
#[test]
fn the_table_holds_the_functions() {
    use kvappend_sys::*;
    let mut table = std::ptr::null();
    // SAFETY: the pointer to be filled is valid.
    let status = unsafe { kvappend_get_api(KVAPPEND_ABI_VERSION, &mut table) };
    assert_eq!(status, KVAPPEND_SUCCESS);
    // SAFETY: on success it is that of a table in static memory.
    let table = unsafe { &*table };
    assert!(table.struct_size >= size_of::<kvappend_api>());
    assert_eq!(table.abi_version, KVAPPEND_ABI_VERSION);
    macro_rules! same {
        ($($field:ident: $function:ident,)*) => {
            let expected = kvappend_api { $($field: Some($function),)* ..*table };
            $(assert_eq!(
                table.$field.map(|function| function as usize),
                expected.$field.map(|function| function as usize),
                stringify!($field)
            );)*
        };
    }
    same! {
        status_name: kvappend_status_name,
        last_error_message: kvappend_last_error_message,
        descriptor_init: kvappend_descriptor_init,
        preference_init: kvappend_preference_init,
        args_init: kvappend_args_init,
        sku_init: kvappend_sku_init,
        precision_guarantee_init: kvappend_precision_guarantee_init,
        plan_create: kvappend_plan_create,
        plan_workspace_size: kvappend_plan_workspace_size,
        plan_can_implement: kvappend_plan_can_implement,
        plan_run: kvappend_plan_run,
        plan_destroy: kvappend_plan_destroy,
        plan_get_sku: kvappend_plan_get_sku,
        plan_get_precision_guarantee: kvappend_plan_get_precision_guarantee,
        kernel_name: kvappend_kernel_name,
        report_init: kvappend_report_init,
        fault_init: kvappend_fault_init,
        plan_validate: kvappend_plan_validate,
        plan_run_layers: kvappend_plan_run_layers,
        storage_init: kvappend_storage_init,
        storage_preset: kvappend_storage_preset,
        rotary_init: kvappend_rotary_init,
    }
}
