// SPDX-License-Identifier: Apache-2.0
use crate::{Append, Caches, RawBuffers, Report, Scales};
use std::fmt;

/// The scales of a cache with a storage that a move takes along, in bytes: those that differ between rows. Scales that
/// are the same for all rows stay as they are, and need not be given.
#[derive(Debug, Default)]
pub enum MovedScales<'a> {
    /// For a cache without such scales.
    #[default]
    None,
    /// In memory of their own.
    Apart(&'a mut [u8]),
    /// In the memory of the cache, or of the pool, from this byte on.
    Inside(usize),
}

/// The buffers of one move in host memory: see [`Plan::move_rows`](crate::Plan::move_rows). What the plan does not ask
/// for is ignored, and can be left at its default.
pub struct Move<'a, T, O, I = i32> {
    /// `[N, H, R, D_k]` and `[N, H, R, D_v]`, written.
    pub caches: Caches<'a, T>,
    /// The caches of a plan with [`storage`](crate::Descriptor::storage), in bytes, instead of `caches`.
    pub stored: Caches<'a, u8>,
    /// Scales that belong to one row each, and move with it.
    pub k_scales: MovedScales<'a>,
    /// The same for V.
    pub v_scales: MovedScales<'a>,
    /// Where the rows come from.
    pub from_slots: &'a [O],
    /// Where they go.
    pub slots: &'a [O],
    /// `[B + 1]`, for [`Lengths::Packed`](crate::Lengths::Packed).
    pub lengths: &'a [I],
    /// One element.
    pub token_count: &'a [I],
    /// Counts the rows of a plan with [`Skip::Report`](crate::Skip::Report).
    pub report: Option<&'a Report>,
}

impl<T, O, I> Default for Move<'_, T, O, I> {
    fn default() -> Self {
        Self {
            caches: Caches::default(),
            stored: Caches::default(),
            k_scales: MovedScales::None,
            v_scales: MovedScales::None,
            from_slots: &[],
            slots: &[],
            lengths: &[],
            token_count: &[],
            report: None,
        }
    }
}

impl<T, O, I> fmt::Debug for Move<'_, T, O, I> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Move").finish_non_exhaustive()
    }
}

impl<T, O, I> Move<'_, T, O, I> {
    /// The same as pointers, which are valid as long as the borrows. The caches are those of a plan with a storage or
    /// of one without it.
    pub(crate) fn into_raw(self, is_stored: bool) -> RawBuffers<T, O, I> {
        let written = Append {
            caches: self.caches,
            stored: self.stored,
            k_scales: written(self.k_scales),
            v_scales: written(self.v_scales),
            slots: self.slots,
            lengths: self.lengths,
            token_count: self.token_count,
            report: self.report,
            ..Append::default()
        };
        RawBuffers {
            from_slots: self.from_slots,
            ..written.into_raw(is_stored)
        }
    }
}

/// As those of an append that writes them.
fn written(scales: MovedScales<'_>) -> Scales<'_> {
    match scales {
        MovedScales::None => Scales::None,
        MovedScales::Apart(scales) => Scales::Computed(scales),
        MovedScales::Inside(begin) => Scales::Inside(begin),
    }
}
