// SPDX-License-Identifier: Apache-2.0
use crate::{Layout, Query, Scales, Tensor, TensorMut};
use kvappend_sys as sys;
use std::cell::Cell;
use std::ffi::c_void;
use std::fmt;
use std::ptr;

/// The caches of one run.
#[derive(Debug)]
pub enum Caches<'a, T> {
    /// K and V in memory of their own.
    Apart(TensorMut<'a, T>, TensorMut<'a, T>),
    /// K and V in one pool, each beginning at an element of it. The library checks that no element belongs to both.
    Pool {
        /// The pool.
        memory: &'a mut [T],
        /// The first element of K, and its layout.
        k: (usize, Layout),
        /// The same for V.
        v: (usize, Layout),
    },
}

impl<T> Caches<'_, T> {
    pub(crate) fn layouts(&self) -> [Layout; 2] {
        match self {
            Self::Apart(k, v) => [k.layout, v.layout],
            Self::Pool {
                k: (_, k), v: (_, v), ..
            } => [*k, *v],
        }
    }

    /// Of K and of V: the memory, and the part of it that begins with the cache.
    fn into_raw(self) -> [(*mut [T], *mut [T]); 2] {
        match self {
            Self::Apart(k, v) => [k, v].map(|cache| {
                let memory = ptr::from_mut(cache.memory);
                (memory, memory)
            }),
            Self::Pool {
                memory,
                k: (k_begin, _),
                v: (v_begin, _),
            } => {
                let pool = ptr::from_mut(memory);
                [(pool, from(pool, k_begin)), (pool, from(pool, v_begin))]
            }
        }
    }
}

impl<T> Default for Caches<'_, T> {
    fn default() -> Self {
        Self::Apart(TensorMut::default(), TensorMut::default())
    }
}

/// The position of each sample's first new row, unless the descriptor says otherwise. Several layers can have copies of
/// the same value.
#[derive(Clone, Copy, Default)]
pub enum Offsets<'a, O> {
    /// For slots, tokens with positions, and zero offsets.
    #[default]
    None,
    /// Offsets that the run only reads.
    Read(&'a [O]),
    /// A plan with [`advance`](crate::Descriptor::advance) writes them, too. See [`Offsets::advance`].
    Advance(&'a [Cell<O>]),
}

impl<'a, O> Offsets<'a, O> {
    /// Offsets that the run also writes. To share an array of offsets among layers, give each a copy of this value.
    pub fn advance(offsets: &'a mut [O]) -> Self {
        Self::Advance(Cell::from_mut(offsets).as_slice_of_cells())
    }
}

impl<O> fmt::Debug for Offsets<'_, O> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::None => "None",
            Self::Read(_) => "Read",
            Self::Advance(_) => "Advance",
        })
    }
}

/// Counts what happened to the rows of all runs that had this report.
#[derive(Clone, Debug, Default)]
#[repr(transparent)]
pub struct Report(Cell<sys::kvappend_report>);

impl Report {
    /// The counts so far.
    pub fn get(&self) -> sys::kvappend_report {
        self.0.get()
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::kvappend_report {
        self.0.as_ptr()
    }
}

/// The buffers of one append in host memory. What the plan does not ask for is ignored, and can be left at its default.
pub struct Append<'a, T, O, I = i32> {
    /// `[B, H, L, D_k]`, or `[T, H, D_k]` of tokens.
    pub k_new: Tensor<'a, T>,
    /// The same for V.
    pub v_new: Tensor<'a, T>,
    /// `[N, H, R, D_k]` and `[N, H, R, D_v]`, written.
    pub caches: Caches<'a, T>,
    /// The caches of a plan with [`storage`](crate::Descriptor::storage), in bytes, instead of `caches`.
    pub stored: Caches<'a, u8>,
    /// The scales of a plan with [`storage`](crate::Descriptor::storage).
    pub k_scales: Scales<'a>,
    /// The same for V.
    pub v_scales: Scales<'a>,
    /// One element.
    pub k_global_scale: &'a [f32],
    /// One element.
    pub v_global_scale: &'a [f32],
    /// `[B]`, or one element with [`shared_offset`](crate::Descriptor::shared_offset).
    pub offsets: Offsets<'a, O>,
    /// `[T]`, for [`Addressing::Slots`](crate::Addressing::Slots).
    pub slots: &'a [O],
    /// `[B]`, or `[B + 1]` for [`Lengths::Packed`](crate::Lengths::Packed).
    pub lengths: &'a [I],
    /// `[B]`, for [`left_pads`](crate::Descriptor::left_pads).
    pub left_pads: &'a [I],
    /// `[B]`, for [`batch_index`](crate::Descriptor::batch_index).
    pub batch_index: &'a [I],
    /// `[B, table_entries]`, or `[table_entries]` for [`Addressing::PagedCsr`](crate::Addressing::PagedCsr).
    pub page_table: &'a [I],
    /// `[B + 1]`, for [`Addressing::PagedCsr`](crate::Addressing::PagedCsr).
    pub page_indptr: &'a [I],
    /// `[T]`, for [`Lengths::PerToken`](crate::Lengths::PerToken).
    pub token_samples: &'a [I],
    /// `[T]`, for [`Lengths::PerToken`](crate::Lengths::PerToken).
    pub token_positions: &'a [O],
    /// One element.
    pub token_count: &'a [I],
    /// The tables of a plan with [`rotary`](crate::Descriptor::rotary), in bytes: see [`bytes`](crate::bytes).
    pub rotary_cos: &'a [u8],
    /// As `rotary_cos`.
    pub rotary_sin: &'a [u8],
    /// `[B, L]` or `[T]`, for [`positions`](crate::Descriptor::positions).
    pub positions: &'a [O],
    /// The rows of Q that are rotated with those of K.
    pub q: Query<'a, T>,
    /// In bytes, for [`Rotary::q_storage`](crate::Rotary::q_storage) with scales.
    pub q_scales: &'a [u8],
    /// Counts the rows of a plan with [`Skip::Report`](crate::Skip::Report).
    pub report: Option<&'a Report>,
}

impl<T, O, I> Default for Append<'_, T, O, I> {
    fn default() -> Self {
        Self {
            k_new: Tensor::default(),
            v_new: Tensor::default(),
            caches: Caches::default(),
            stored: Caches::default(),
            k_scales: Scales::None,
            v_scales: Scales::None,
            k_global_scale: &[],
            v_global_scale: &[],
            offsets: Offsets::None,
            slots: &[],
            lengths: &[],
            left_pads: &[],
            batch_index: &[],
            page_table: &[],
            page_indptr: &[],
            token_samples: &[],
            token_positions: &[],
            token_count: &[],
            rotary_cos: &[],
            rotary_sin: &[],
            positions: &[],
            q: Query::None,
            q_scales: &[],
            report: None,
        }
    }
}

impl<T, O, I> fmt::Debug for Append<'_, T, O, I> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Append").finish_non_exhaustive()
    }
}

/// The buffers of one append, gather or move in any memory, such as that of a device: pointers with their numbers of
/// elements. An empty buffer is passed as NULL.
#[derive(Clone, Copy, Debug)]
pub struct RawBuffers<T, O, I = i32> {
    /// The rows of an append.
    pub k_new: *const [T],
    /// The same for V.
    pub v_new: *const [T],
    /// Written by an append and by a move, and only read by a gather.
    pub k_cache: *mut [T],
    /// The same for V.
    pub v_cache: *mut [T],
    /// The caches of a plan with a storage, in bytes, instead of `k_cache` and `v_cache`.
    pub k_stored: *mut [u8],
    /// The same for V.
    pub v_stored: *mut [u8],
    /// The rows of a gather, which are written.
    pub k_out: *mut [T],
    /// The same for V.
    pub v_out: *mut [T],
    /// Written only by an append that computes them, and by a move of rows with scales of their own.
    pub k_scales: *mut [u8],
    /// The same for V.
    pub v_scales: *mut [u8],
    /// One element.
    pub k_global_scale: *const [f32],
    /// One element.
    pub v_global_scale: *const [f32],
    /// Written only by a plan that advances them.
    pub offsets: *mut [O],
    /// As [`Append::slots`].
    pub slots: *const [O],
    /// Where the rows of a move come from.
    pub from_slots: *const [O],
    /// As [`Append::lengths`].
    pub lengths: *const [I],
    /// As [`Append::left_pads`].
    pub left_pads: *const [I],
    /// As [`Append::batch_index`].
    pub batch_index: *const [I],
    /// As [`Append::page_table`].
    pub page_table: *const [I],
    /// As [`Append::page_indptr`].
    pub page_indptr: *const [I],
    /// As [`Append::token_samples`].
    pub token_samples: *const [I],
    /// As [`Append::token_positions`].
    pub token_positions: *const [O],
    /// As [`Append::token_count`].
    pub token_count: *const [I],
    /// In bytes.
    pub rotary_cos: *const [u8],
    /// As `rotary_cos`.
    pub rotary_sin: *const [u8],
    /// As [`Append::positions`].
    pub positions: *const [O],
    /// The rows of Q. They are rotated in place if `q_out` is the same memory. With a storage, `q_stored` takes the
    /// place of `q_out`.
    pub q: *const [T],
    /// The rotated rows of Q, as elements.
    pub q_out: *mut [T],
    /// The rotated rows of Q, in bytes.
    pub q_stored: *mut [u8],
    /// The scales of the rotated rows of Q, in bytes.
    pub q_scales: *const [u8],
    /// NULL where there is none.
    pub report: *mut sys::kvappend_report,
}

impl<T, O, I> Default for RawBuffers<T, O, I> {
    fn default() -> Self {
        Append::default().into_raw(false)
    }
}

impl<T, O, I> Append<'_, T, O, I> {
    /// The same as pointers, which are valid as long as the borrows. The caches are those of a plan with a storage or
    /// of one without it.
    pub(crate) fn into_raw(self, is_stored: bool) -> RawBuffers<T, O, I> {
        let (caches, stored) = if is_stored {
            (Caches::default(), self.stored)
        } else {
            (self.caches, Caches::default())
        };
        let [(_, k_cache), (_, v_cache)] = caches.into_raw();
        let [(k_memory, k_stored), (v_memory, v_stored)] = stored.into_raw();
        let (q, q_out, q_stored) = self.q.into_raw();
        RawBuffers {
            k_new: self.k_new.memory,
            v_new: self.v_new.memory,
            k_cache,
            v_cache,
            k_stored,
            v_stored,
            k_out: ptr::from_mut(&mut []),
            v_out: ptr::from_mut(&mut []),
            k_scales: scales(self.k_scales, k_memory),
            v_scales: scales(self.v_scales, v_memory),
            k_global_scale: self.k_global_scale,
            v_global_scale: self.v_global_scale,
            offsets: match self.offsets {
                Offsets::None => ptr::from_mut(&mut []),
                Offsets::Read(offsets) => ptr::from_ref(offsets).cast_mut(),
                Offsets::Advance(offsets) => ptr::from_ref(offsets) as *mut [O],
            },
            slots: self.slots,
            from_slots: &[],
            lengths: self.lengths,
            left_pads: self.left_pads,
            batch_index: self.batch_index,
            page_table: self.page_table,
            page_indptr: self.page_indptr,
            token_samples: self.token_samples,
            token_positions: self.token_positions,
            token_count: self.token_count,
            rotary_cos: self.rotary_cos,
            rotary_sin: self.rotary_sin,
            positions: self.positions,
            q,
            q_out,
            q_stored,
            q_scales: self.q_scales,
            report: self.report.map_or(ptr::null_mut(), Report::as_ptr),
        }
    }
}

fn scales(scales: Scales<'_>, memory: *mut [u8]) -> *mut [u8] {
    match scales {
        Scales::None => ptr::from_mut(&mut []),
        Scales::Given(scales) => ptr::from_ref(scales).cast_mut(),
        Scales::Computed(scales) => ptr::from_mut(scales),
        Scales::Inside(begin) => from(memory, begin),
    }
}

/// The memory after the first elements, or nothing if there are fewer elements.
fn from<T>(pool: *mut [T], begin: usize) -> *mut [T] {
    let length = pool.len().saturating_sub(begin);
    ptr::slice_from_raw_parts_mut(pool.cast::<T>().wrapping_add(begin), length)
}

impl<T, O, I> RawBuffers<T, O, I> {
    pub(crate) fn in_c(&self) -> sys::kvappend_args {
        let (k_new, k_new_bytes) = part(self.k_new);
        let (v_new, v_new_bytes) = part(self.v_new);
        let (k_cache, k_cache_bytes) = cache(self.k_cache, self.k_stored);
        let (v_cache, v_cache_bytes) = cache(self.v_cache, self.v_stored);
        let (k_out, k_out_bytes) = part(self.k_out);
        let (v_out, v_out_bytes) = part(self.v_out);
        let (k_scales, k_scales_bytes) = part(self.k_scales);
        let (v_scales, v_scales_bytes) = part(self.v_scales);
        let (k_global_scale, k_global_scale_bytes) = part(self.k_global_scale);
        let (v_global_scale, v_global_scale_bytes) = part(self.v_global_scale);
        let (cache_offsets, cache_offsets_bytes) = part(self.offsets);
        let (slots, slots_bytes) = part(self.slots);
        let (from_slots, from_slots_bytes) = part(self.from_slots);
        let (lengths, lengths_bytes) = part(self.lengths);
        let (left_pads, left_pads_bytes) = part(self.left_pads);
        let (batch_index, batch_index_bytes) = part(self.batch_index);
        let (page_table, page_table_bytes) = part(self.page_table);
        let (page_indptr, page_indptr_bytes) = part(self.page_indptr);
        let (token_samples, token_samples_bytes) = part(self.token_samples);
        let (token_positions, token_positions_bytes) = part(self.token_positions);
        let (token_count, token_count_bytes) = part(self.token_count);
        let (rotary_cos, rotary_cos_bytes) = part(self.rotary_cos);
        let (rotary_sin, rotary_sin_bytes) = part(self.rotary_sin);
        let (positions, positions_bytes) = part(self.positions);
        let (q, q_bytes) = part(self.q);
        let (q_out, q_out_bytes) = cache(self.q_out, self.q_stored);
        let (q_scales, q_scales_bytes) = part(self.q_scales);
        sys::kvappend_args {
            k_new,
            k_new_bytes,
            v_new,
            v_new_bytes,
            k_cache: k_cache.cast_mut(),
            k_cache_bytes,
            v_cache: v_cache.cast_mut(),
            v_cache_bytes,
            k_out: k_out.cast_mut(),
            k_out_bytes,
            v_out: v_out.cast_mut(),
            v_out_bytes,
            cache_offsets: cache_offsets.cast_mut(),
            cache_offsets_bytes,
            slots,
            slots_bytes,
            from_slots,
            from_slots_bytes,
            lengths,
            lengths_bytes,
            left_pads,
            left_pads_bytes,
            batch_index,
            batch_index_bytes,
            page_table,
            page_table_bytes,
            page_indptr,
            page_indptr_bytes,
            token_samples,
            token_samples_bytes,
            token_positions,
            token_positions_bytes,
            token_count,
            token_count_bytes,
            rotary_cos,
            rotary_cos_bytes,
            rotary_sin,
            rotary_sin_bytes,
            positions,
            positions_bytes,
            q,
            q_bytes,
            q_out: q_out.cast_mut(),
            q_out_bytes,
            q_scales,
            q_scales_bytes,
            k_scales: k_scales.cast_mut(),
            k_scales_bytes,
            v_scales: v_scales.cast_mut(),
            v_scales_bytes,
            k_global_scale: k_global_scale.cast(),
            k_global_scale_bytes,
            v_global_scale: v_global_scale.cast(),
            v_global_scale_bytes,
            report: self.report,
            report_bytes: size_of::<sys::kvappend_report>(),
            ..Default::default()
        }
    }
}

fn cache<T>(cache: *const [T], stored: *const [u8]) -> (*const c_void, usize) {
    if stored.is_empty() {
        part(cache)
    } else {
        part(stored)
    }
}

/// A buffer's address and number of bytes. To the library, 0 bytes mean that the size is unknown, so an empty buffer
/// must be NULL.
fn part<T>(elements: *const [T]) -> (*const c_void, usize) {
    match elements.len() {
        0 => (ptr::null(), 0),
        length => (elements.cast(), length.saturating_mul(size_of::<T>())),
    }
}
