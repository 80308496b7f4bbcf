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

/// The bits of an 8-bit float with 4 bits of exponent and 3 of mantissa, without infinities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct E4m3(pub u8);

/// The bits of an 8-bit float with 5 bits of exponent and 2 of mantissa.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct E5m2(pub u8);

/// An element of K and V. You can implement this trait for your own types of 16 and 8 bits.
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

// SAFETY: any 8 bits.
unsafe impl Element for E4m3 {
    const TYPE: i32 = sys::KVAPPEND_ELEMENT_E4M3;
}

// SAFETY: any 8 bits.
unsafe impl Element for E5m2 {
    const TYPE: i32 = sys::KVAPPEND_ELEMENT_E5M2;
}

// SAFETY: any 8 bits.
unsafe impl Element for i8 {
    const TYPE: i32 = sys::KVAPPEND_ELEMENT_INT8;
}

// SAFETY: any 8 bits.
unsafe impl Element for u8 {
    const TYPE: i32 = sys::KVAPPEND_ELEMENT_UINT8;
}

/// An element of offsets, slots and positions.
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

/// An element of every other array of indices, such as `lengths` and `page_table`.
///
/// # Safety
///
/// The type is the integer that `TYPE` names.
pub unsafe trait Index: Copy + 'static {
    /// A `KVAPPEND_INDEX_*`.
    const TYPE: i32;
}

// SAFETY: the type named.
unsafe impl Index for i32 {
    const TYPE: i32 = sys::KVAPPEND_INDEX_INT32;
}

// SAFETY: the type named.
unsafe impl Index for i64 {
    const TYPE: i32 = sys::KVAPPEND_INDEX_INT64;
}
