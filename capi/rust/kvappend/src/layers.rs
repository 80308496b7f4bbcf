// SPDX-License-Identifier: Apache-2.0
//! Several appends, gathers or moves as one.
use crate::error::{check, Result};
use crate::{Append, Element, Gather, Index, Move, Offset, Plan, RawBuffers};
use kvappend_sys as sys;
use std::ptr;

/// Does several appends in host memory as one, such as those of all layers. If one of them is refused, nothing is
/// written. All rows are placed by the offsets from before the call. [`Offsets`](crate::Offsets) that several layers
/// share advance once:
///
/// ```
/// use kvappend::{run_layers, Append, Caches, Descriptor, Layout, Offsets, Tensor, TensorMut};
///
/// let (new, cache) = (Layout::contiguous([1, 1, 1, 1]), Layout::contiguous([1, 1, 4, 1]));
/// let plan = Descriptor::new(new, new, cache, cache).advance().host::<f32, i64, i32>()?;
/// let rows = [1., 2., 3.];
/// let (mut k_caches, mut v_caches) = ([[0.; 4]; 3], [[0.; 4]; 3]);
/// let mut offsets = [2];
///
/// let shared = Offsets::advance(&mut offsets);
/// let caches = k_caches.iter_mut().zip(&mut v_caches);
/// run_layers(caches.zip(&rows).map(|((k, v), row)| {
///     let append = Append {
///         k_new: Tensor::new(std::slice::from_ref(row), new),
///         v_new: Tensor::new(std::slice::from_ref(row), new),
///         caches: Caches::Apart(TensorMut::new(k, cache), TensorMut::new(v, cache)),
///         offsets: shared,
///         ..Append::default()
///     };
///     (&plan, append)
/// }))?;
/// assert_eq!(k_caches[2], [0., 0., 3., 0.]);
/// assert_eq!(offsets, [3]);
/// # Ok::<(), kvappend::Error>(())
/// ```
pub fn run_layers<'a, T: Element, O: Offset, I: Index>(
    layers: impl IntoIterator<Item = (&'a Plan<T, O, I>, Append<'a, T, O, I>)>,
) -> Result<()> {
    let mut checked = Vec::new();
    for (i, (plan, append)) in layers.into_iter().enumerate() {
        let buffers = plan.checked(append).map_err(|error| error.of_layer(i))?;
        checked.push((plan, buffers));
    }
    // SAFETY: as in Plan::run for each layer: 'a outlasts the call. Each layer borrows its own caches mutably, so no
    // two layers write the same cache. They may share offsets and reports, which are cells: only this thread writes
    // them, and no reference to their contents exists.
    unsafe { run_layers_raw(checked.iter().map(|(plan, buffers)| (*plan, buffers)), ptr::null_mut()) }
}

/// Does several gathers in host memory as one, such as those of all layers. If one of them is refused, nothing is
/// written.
pub fn gather_layers<'a, T: Element, O: Offset, I: Index>(
    layers: impl IntoIterator<Item = (&'a Plan<T, O, I>, Gather<'a, T, O, I>)>,
) -> Result<()> {
    let mut checked = Vec::new();
    for (i, (plan, gather)) in layers.into_iter().enumerate() {
        let buffers = plan.checked_gather(gather).map_err(|error| error.of_layer(i))?;
        checked.push((plan, buffers));
    }
    // SAFETY: as in run_layers. Each layer borrows its own rows mutably.
    unsafe { run_layers_raw(checked.iter().map(|(plan, buffers)| (*plan, buffers)), ptr::null_mut()) }
}

/// Does several moves in host memory as one, such as those of all layers. If one of them is refused, nothing is
/// written.
pub fn move_layers<'a, T: Element, O: Offset, I: Index>(
    layers: impl IntoIterator<Item = (&'a Plan<T, O, I>, Move<'a, T, O, I>)>,
) -> Result<()> {
    let mut checked = Vec::new();
    for (i, (plan, moved)) in layers.into_iter().enumerate() {
        let buffers = plan.checked_move(moved).map_err(|error| error.of_layer(i))?;
        checked.push((plan, buffers));
    }
    // SAFETY: as in run_layers.
    unsafe { run_layers_raw(checked.iter().map(|(plan, buffers)| (*plan, buffers)), ptr::null_mut()) }
}

/// Does several appends, gathers or moves as one in the order of a CUDA stream (or, with a NULL stream, in host
/// memory).
///
/// # Safety
///
/// The requirements of [`Plan::run_raw`] hold for each layer. No layer may write what another reads or writes, except
/// that layers may share offsets and a report.
pub unsafe fn run_layers_raw<'a, T: Element, O: Offset, I: Index>(
    layers: impl IntoIterator<Item = (&'a Plan<T, O, I>, &'a RawBuffers<T, O, I>)>,
    stream: *mut sys::CUstream_st,
) -> Result<()> {
    let (plans, args): (Vec<_>, Vec<_>) = layers
        .into_iter()
        .map(|(plan, buffers)| (plan.as_ptr(), buffers.in_c()))
        .unzip();
    let each: Vec<_> = args.iter().map(ptr::from_ref).collect();
    // SAFETY: the plans and structs are valid, and their numbers are equal. The caller promises the rest. No workspace
    // is needed.
    check(unsafe {
        sys::kvappend_plan_run_layers(plans.as_ptr(), each.as_ptr(), plans.len(), ptr::null_mut(), 0, stream)
    })
}
