// SPDX-License-Identifier: Apache-2.0
use kvappend_sys as sys;

/// The bits of an IEEE 754 binary16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct F16(pub u16);

/// The bits of a bfloat16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Bf16(pub u16);

/// An element of K and V. Other crates' half-precision types can be given this trait as well.
///
/// # Safety
///
/// The type has the size of `TYPE`, no padding, and no bit pattern that is invalid.
pub unsafe trait Element: Copy + 'static {
    /// A `KVAPPEND_ELEMENT_*`.
    const TYPE: i32;
}

// SAFETY: a binary32.
unsafe impl Element for f32 {
    const TYPE: i32 = sys::KVAPPEND_ELEMENT_F32;
}

// SAFETY: a binary64.
unsafe impl Element for f64 {
    const TYPE: i32 = sys::KVAPPEND_ELEMENT_F64;
}

// SAFETY: any 16 bits.
unsafe impl Element for F16 {
    const TYPE: i32 = sys::KVAPPEND_ELEMENT_F16;
}

// SAFETY: any 16 bits.
unsafe impl Element for Bf16 {
    const TYPE: i32 = sys::KVAPPEND_ELEMENT_BF16;
}

/// An element of `cache_offsets` and of `slots`.
///
/// # Safety
///
/// The type is the integer that `TYPE` names.
pub unsafe trait Offset: Copy + 'static {
    /// A `KVAPPEND_OFFSET_*`.
    const TYPE: i32;
}

// SAFETY: the type named.
unsafe impl Offset for i64 {
    const TYPE: i32 = sys::KVAPPEND_OFFSET_INT64;
}

// SAFETY: the type named.
unsafe impl Offset for i32 {
    const TYPE: i32 = sys::KVAPPEND_OFFSET_INT32;
}
