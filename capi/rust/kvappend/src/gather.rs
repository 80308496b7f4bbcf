// SPDX-License-Identifier: Apache-2.0
use crate::{RawBuffers, Report, Tensor, TensorMut};
use std::fmt;
use std::ptr;

/// The buffers of one gather in host memory: see [`Plan::gather`](crate::Plan::gather). What the plan does not ask for
/// is ignored, and can be left at its default.
pub struct Gather<'a, T, O, I = i32> {
    /// `[N, H, R, D_k]`.
    pub k_cache: Tensor<'a, T>,
    /// The same for V.
    pub v_cache: Tensor<'a, T>,
    /// The caches of a plan with [`storage`](crate::Descriptor::storage), in bytes, instead of `k_cache` and `v_cache`.
    pub k_stored: Tensor<'a, u8>,
    /// The same for V.
    pub v_stored: Tensor<'a, u8>,
    /// `[B, H, L, D_k]`, or `[T, H, D_k]` of tokens, written.
    pub k_out: TensorMut<'a, T>,
    /// The same for V.
    pub v_out: TensorMut<'a, T>,
    /// In bytes, whether they were given or computed. They may be part of the caches.
    pub k_scales: &'a [u8],
    /// The same for V.
    pub v_scales: &'a [u8],
    /// One element.
    pub k_global_scale: &'a [f32],
    /// One element.
    pub v_global_scale: &'a [f32],
    /// The position of each sample's first row, unless the descriptor says otherwise.
    pub offsets: &'a [O],
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
    /// Counts the rows of a plan with [`Skip::Report`](crate::Skip::Report).
    pub report: Option<&'a Report>,
}

impl<T, O, I> Default for Gather<'_, T, O, I> {
    fn default() -> Self {
        Self {
            k_cache: Tensor::default(),
            v_cache: Tensor::default(),
            k_stored: Tensor::default(),
            v_stored: Tensor::default(),
            k_out: TensorMut::default(),
            v_out: TensorMut::default(),
            k_scales: &[],
            v_scales: &[],
            k_global_scale: &[],
            v_global_scale: &[],
            offsets: &[],
            slots: &[],
            lengths: &[],
            left_pads: &[],
            batch_index: &[],
            page_table: &[],
            page_indptr: &[],
            token_samples: &[],
            token_positions: &[],
            token_count: &[],
            report: None,
        }
    }
}

impl<T, O, I> fmt::Debug for Gather<'_, T, O, I> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Gather").finish_non_exhaustive()
    }
}

impl<T, O, I> Gather<'_, T, O, I> {
    /// The same as pointers, which are valid as long as the borrows. The caches are those of a plan with a storage or
    /// of one without it. Only the rows and the report may be written.
    pub(crate) fn into_raw(self, is_stored: bool) -> RawBuffers<T, O, I> {
        let (k_cache, v_cache, k_stored, v_stored): (_, _, &[u8], &[u8]) = if is_stored {
            (&[][..], &[][..], self.k_stored.memory, self.v_stored.memory)
        } else {
            (self.k_cache.memory, self.v_cache.memory, &[], &[])
        };
        RawBuffers {
            k_cache: ptr::from_ref(k_cache).cast_mut(),
            v_cache: ptr::from_ref(v_cache).cast_mut(),
            k_stored: ptr::from_ref(k_stored).cast_mut(),
            v_stored: ptr::from_ref(v_stored).cast_mut(),
            k_out: self.k_out.memory,
            v_out: self.v_out.memory,
            k_scales: ptr::from_ref(self.k_scales).cast_mut(),
            v_scales: ptr::from_ref(self.v_scales).cast_mut(),
            k_global_scale: self.k_global_scale,
            v_global_scale: self.v_global_scale,
            offsets: ptr::from_ref(self.offsets).cast_mut(),
            slots: self.slots,
            lengths: self.lengths,
            left_pads: self.left_pads,
            batch_index: self.batch_index,
            page_table: self.page_table,
            page_indptr: self.page_indptr,
            token_samples: self.token_samples,
            token_positions: self.token_positions,
            token_count: self.token_count,
            report: self.report.map_or(ptr::null_mut(), Report::as_ptr),
            ..RawBuffers::default()
        }
    }
}
