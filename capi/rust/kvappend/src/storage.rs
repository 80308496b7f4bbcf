// SPDX-License-Identifier: Apache-2.0
use crate::error::{check, Error, Result};
use crate::{Element, Storage};
use kvappend_sys as sys;
use std::slice;

/// The storage of a known cache, one of `KVAPPEND_PRESET_*`. Any of its fields can be changed:
///
/// ```
/// use kvappend::{preset, sys, Storage};
///
/// let e5m2 = Storage {
///     r#type: sys::KVAPPEND_STORED_E5M2,
///     ..preset(sys::KVAPPEND_PRESET_E4M3_DIVIDE)?
/// };
/// # assert_eq!(e5m2.scaling, sys::KVAPPEND_SCALING_GIVEN);
/// # Ok::<(), kvappend::Error>(())
/// ```
pub fn preset(preset: i32) -> Result<Storage> {
    let mut storage = Storage::default();
    // SAFETY: the pointer is valid for a struct of this size.
    check(unsafe { sys::kvappend_storage_preset(preset, &mut storage, size_of::<Storage>()) })?;
    Ok(storage)
}

/// The memory of these elements, such as scales.
pub fn bytes<T: Element>(elements: &[T]) -> &[u8] {
    // SAFETY: an element has no padding.
    unsafe { slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

/// The memory of these elements, such as that of a cache of f32 rows.
pub fn bytes_mut<T: Element>(elements: &mut [T]) -> &mut [u8] {
    // SAFETY: an element has no padding, and no bit pattern is invalid.
    unsafe { slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), size_of_val(elements)) }
}

/// The scales of the cache of an append with a storage, in bytes: see [`bytes`].
#[derive(Debug, Default)]
pub enum Scales<'a> {
    /// For a cache without scales.
    #[default]
    None,
    /// For `KVAPPEND_SCALING_GIVEN`.
    Given(&'a [u8]),
    /// For `KVAPPEND_SCALING_COMPUTED`.
    Computed(&'a mut [u8]),
    /// For both: in the memory of the cache, or of the pool, from this byte on.
    Inside(usize),
}

/// The number of bits of a code.
pub(crate) fn bits(storage: &Storage) -> Result<usize> {
    match storage.r#type {
        sys::KVAPPEND_STORED_F32 => Ok(32),
        sys::KVAPPEND_STORED_F16 | sys::KVAPPEND_STORED_BF16 => Ok(16),
        sys::KVAPPEND_STORED_E4M3 | sys::KVAPPEND_STORED_E5M2 | sys::KVAPPEND_STORED_INT8 => Ok(8),
        sys::KVAPPEND_STORED_INT4 | sys::KVAPPEND_STORED_E2M1 => Ok(4),
        other => Err(Error::new(
            sys::KVAPPEND_ERROR_STORAGE,
            format!("a storage has the type {other}: expected KVAPPEND_STORED_F32 to KVAPPEND_STORED_E2M1"),
        )),
    }
}
