// SPDX-License-Identifier: Apache-2.0
use crate::{Tensor, TensorMut};
use kvappend_sys as sys;
use std::ffi::c_void;
use std::fmt;
use std::ops::Deref;
use std::ptr;

/// The caches of one run.
#[derive(Debug)]
pub enum Caches<'a, T> {
    /// K and V in memory of their own.
    Apart(TensorMut<'a, T>, TensorMut<'a, T>),
    /// K and V in one pool, each beginning at an element of it. The library checks that no element belongs to both.
    Pool {
        memory: &'a mut [T],
        k: (usize, crate::Layout),
        v: (usize, crate::Layout),
    },
}

impl<T> Default for Caches<'_, T> {
    fn default() -> Self {
        Self::Apart(TensorMut::default(), TensorMut::default())
    }
}

/// The position of each sample's first new row.
#[derive(Debug, Default)]
pub enum Offsets<'a, O> {
    /// Neither slots nor zero offsets have any.
    #[default]
    None,
    Read(&'a [O]),
    /// They are written, too, which is what a plan with [`advance`](crate::Descriptor::advance) does.
    Advance(&'a mut [O]),
}

/// What became of the rows of all runs that counted in it: the fields of [`sys::kvappend_report`].
#[derive(Clone, Debug, Default)]
#[repr(transparent)]
pub struct Report(sys::kvappend_report);

impl Deref for Report {
    type Target = sys::kvappend_report;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// The buffers of one run in host memory. What the plan does not ask for is ignored, and can be left at its default.
pub struct Append<'a, T, O> {
    pub k_new: Tensor<'a, T>,
    pub v_new: Tensor<'a, T>,
    pub caches: Caches<'a, T>,
    pub offsets: Offsets<'a, O>,
    pub slots: &'a [O],
    pub lengths: &'a [i32],
    pub left_pads: &'a [i32],
    pub batch_index: &'a [i32],
    pub page_table: &'a [i32],
    pub page_indptr: &'a [i32],
    pub report: Option<&'a mut Report>,
}

impl<T, O> Default for Append<'_, T, O> {
    fn default() -> Self {
        Self {
            k_new: Tensor::default(),
            v_new: Tensor::default(),
            caches: Caches::default(),
            offsets: Offsets::None,
            slots: &[],
            lengths: &[],
            left_pads: &[],
            batch_index: &[],
            page_table: &[],
            page_indptr: &[],
            report: None,
        }
    }
}

impl<T, O> fmt::Debug for Append<'_, T, O> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Append").finish_non_exhaustive()
    }
}

/// The buffers of one run anywhere, as on a device: pointers with the number of elements behind them. An empty one is
/// passed on as NULL.
#[derive(Clone, Copy, Debug)]
pub struct RawAppend<T, O> {
    pub k_new: *const [T],
    pub v_new: *const [T],
    pub k_cache: *mut [T],
    pub v_cache: *mut [T],
    /// Written only by a plan that advances them.
    pub offsets: *mut [O],
    pub slots: *const [O],
    pub lengths: *const [i32],
    pub left_pads: *const [i32],
    pub batch_index: *const [i32],
    pub page_table: *const [i32],
    pub page_indptr: *const [i32],
    /// NULL where there is none.
    pub report: *mut sys::kvappend_report,
}

impl<T, O> Default for RawAppend<T, O> {
    fn default() -> Self {
        Append::default().into_raw()
    }
}

impl<T, O> Append<'_, T, O> {
    /// The same as pointers, good for as long as the borrows are.
    pub(crate) fn into_raw(self) -> RawAppend<T, O> {
        let (k_cache, v_cache) = match self.caches {
            Caches::Apart(k, v) => (ptr::from_mut(k.memory), ptr::from_mut(v.memory)),
            Caches::Pool {
                memory,
                k: (k_begin, _),
                v: (v_begin, _),
            } => {
                let pool = ptr::from_mut(memory);
                (from(pool, k_begin), from(pool, v_begin))
            }
        };
        RawAppend {
            k_new: self.k_new.memory,
            v_new: self.v_new.memory,
            k_cache,
            v_cache,
            offsets: match self.offsets {
                Offsets::None => ptr::from_mut(&mut []),
                Offsets::Read(offsets) => ptr::from_ref(offsets).cast_mut(),
                Offsets::Advance(offsets) => offsets,
            },
            slots: self.slots,
            lengths: self.lengths,
            left_pads: self.left_pads,
            batch_index: self.batch_index,
            page_table: self.page_table,
            page_indptr: self.page_indptr,
            report: self.report.map_or(ptr::null_mut(), |report| &mut report.0),
        }
    }
}

/// What is behind the first elements; nothing, where there are not so many.
fn from<T>(pool: *mut [T], begin: usize) -> *mut [T] {
    let length = pool.len().saturating_sub(begin);
    ptr::slice_from_raw_parts_mut(pool.cast::<T>().wrapping_add(begin), length)
}

impl<T, O> RawAppend<T, O> {
    pub(crate) fn in_c(&self) -> sys::kvappend_args {
        let (k_new, k_new_bytes) = part(self.k_new);
        let (v_new, v_new_bytes) = part(self.v_new);
        let (k_cache, k_cache_bytes) = part(self.k_cache);
        let (v_cache, v_cache_bytes) = part(self.v_cache);
        let (cache_offsets, cache_offsets_bytes) = part(self.offsets);
        let (slots, slots_bytes) = part(self.slots);
        let (lengths, lengths_bytes) = part(self.lengths);
        let (left_pads, left_pads_bytes) = part(self.left_pads);
        let (batch_index, batch_index_bytes) = part(self.batch_index);
        let (page_table, page_table_bytes) = part(self.page_table);
        let (page_indptr, page_indptr_bytes) = part(self.page_indptr);
        sys::kvappend_args {
            k_new,
            k_new_bytes,
            v_new,
            v_new_bytes,
            k_cache: k_cache.cast_mut(),
            k_cache_bytes,
            v_cache: v_cache.cast_mut(),
            v_cache_bytes,
            cache_offsets: cache_offsets.cast_mut(),
            cache_offsets_bytes,
            slots,
            slots_bytes,
            lengths: lengths.cast(),
            lengths_bytes,
            left_pads: left_pads.cast(),
            left_pads_bytes,
            batch_index: batch_index.cast(),
            batch_index_bytes,
            page_table: page_table.cast(),
            page_table_bytes,
            page_indptr: page_indptr.cast(),
            page_indptr_bytes,
            report: self.report,
            report_bytes: size_of::<sys::kvappend_report>(),
            ..Default::default()
        }
    }
}

/// A buffer's address and bytes. To the library 0 bytes are an unknown number: an empty buffer has to be NULL.
fn part<T>(elements: *const [T]) -> (*const c_void, usize) {
    match elements.len() {
        0 => (ptr::null(), 0),
        length => (elements.cast(), length.saturating_mul(size_of::<T>())),
    }
}
