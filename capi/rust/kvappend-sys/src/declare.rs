// SPDX-License-Identifier: Apache-2.0
//! Each macro makes two things of its declarations: the declarations in Rust, and a table of them. By this table,
//! tests/header.rs compares all declarations with the header. No declaration can be missing in the table.

#[derive(Debug)]
pub struct Constant {
    pub name: &'static str,
    pub value: i64,
}

#[derive(Debug)]
pub struct Struct {
    pub name: &'static str,
    pub size: usize,
    pub fields: &'static [Field],
}

#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    /// The type as it is written in Rust.
    pub kind: &'static str,
    pub offset: usize,
    pub size: usize,
}

#[derive(Debug)]
pub struct Function {
    pub name: &'static str,
    pub arguments: &'static [&'static str],
    pub result: &'static str,
}

macro_rules! declare_constants {
    ($($name:ident: $kind:ty = $value:expr;)*) => {
        $(pub const $name: $kind = $value;)*
        #[doc(hidden)]
        pub const CONSTANTS: &[declare::Constant] =
            &[$(declare::Constant { name: stringify!($name), value: $name as i64 },)*];
    };
}

macro_rules! declare_structs {
    ($($(#[$attribute:meta])* pub struct $name:ident { $(pub $field:ident: $kind:ty,)* })*) => {
        $(
            $(#[$attribute])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug)]
            pub struct $name { $(pub $field: $kind,)* }

            /// What the header's `_INIT` macro gives: all zero but for `struct_size`.
            impl Default for $name {
                fn default() -> Self {
                    // SAFETY: every field is a number, an array of numbers, a raw pointer or an optional function.
                    Self { struct_size: size_of::<Self>(), ..unsafe { std::mem::zeroed() } }
                }
            }
        )*
        #[doc(hidden)]
        pub const STRUCTS: &[declare::Struct] = &[$(declare::Struct {
            name: stringify!($name),
            size: size_of::<$name>(),
            fields: &[$(declare::Field {
                name: stringify!($field),
                kind: stringify!($kind),
                offset: std::mem::offset_of!($name, $field),
                size: size_of::<$kind>(),
            },)*],
        },)*];
    };
}

macro_rules! declare_functions {
    ($(pub fn $name:ident($($argument:ident: $kind:ty),*) -> $result:ty;)*) => {
        extern "C" {
            $(pub fn $name($($argument: $kind),*) -> $result;)*
        }
        #[doc(hidden)]
        pub const FUNCTIONS: &[declare::Function] = &[$(declare::Function {
            name: stringify!($name),
            arguments: &[$(stringify!($kind)),*],
            result: stringify!($result),
        },)*];
    };
}
