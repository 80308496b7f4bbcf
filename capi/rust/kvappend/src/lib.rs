// SPDX-License-Identifier: Apache-2.0
//! Writes new K and V rows into the KV caches of LLM runtimes, gathers rows from them, and moves rows within them.
//! This crate is a safe wrapper of the C library libkvappend, which must be installed. The header `kvappend/kvappend.h`
//! is the manual. It says what each setting means.
//!
//! A [`Descriptor`] says what is the same at every step: the layouts of the tensors, the addressing, the storage
//! format, the rotation. It makes a [`Plan`], which is run at every step with the buffers of that step:
//!
//! ```
//! use kvappend::{Append, Caches, Descriptor, Layout, Offsets, Tensor, TensorMut};
//!
//! // Two samples with one head: one new row for each, for caches of four rows of three elements.
//! let (new, cache) = (Layout::contiguous([2, 1, 1, 3]), Layout::contiguous([2, 1, 4, 3]));
//! let plan = Descriptor::new(new, new, cache, cache).host::<f32, i64, i32>()?;
//!
//! let (k_new, v_new) = ([1., 2., 3., 4., 5., 6.], [-1., -2., -3., -4., -5., -6.]);
//! let (mut k_cache, mut v_cache) = ([0.; 24], [0.; 24]);
//! plan.run(Append {
//!     k_new: Tensor::new(&k_new, new),
//!     v_new: Tensor::new(&v_new, new),
//!     caches: Caches::Apart(TensorMut::new(&mut k_cache, cache), TensorMut::new(&mut v_cache, cache)),
//!     offsets: Offsets::Read(&[2, 0]), // sample 0 has two rows already
//!     ..Append::default()
//! })?;
//! assert_eq!(k_cache[6..9], [1., 2., 3.]);
//! assert_eq!(v_cache[12..15], [-4., -5., -6.]);
//! # Ok::<(), kvappend::Error>(())
//! ```
//!
//! | operation | how to describe it | how to run it | several layers |
//! |---|---|---|---|
//! | append | [`Descriptor::new`] | [`Plan::run`] with an [`Append`] | [`run_layers`] |
//! | gather | [`Descriptor::gather`] | [`Plan::gather`] with a [`Gather`] | [`gather_layers`] |
//! | move | [`Descriptor::move_rows`] | [`Plan::move_rows`] with a [`Move`] | [`move_layers`] |
//!
//! The three type parameters of a plan are the type of the elements ([`Element`]), that of offsets, slots and positions
//! ([`Offset`]), and that of all other indices ([`Index`]). A cache may store its rows in another format
//! ([`Descriptor::storage`], [`preset`]). An append may rotate K and Q ([`Descriptor::rotary`]).
//!
//! These functions take slices of host memory. For memory of a CUDA device, make the plan by [`Descriptor::cuda`], and
//! run it by [`Plan::run_raw`] or [`run_layers_raw`], which are `unsafe`, with pointers and a stream.
//!
//! # Safety
//!
//! A run that would be unsound does not compile. One example is a plan that gets elements of another type than its own:
//!
//! ```compile_fail,E0308
//! # use kvappend::{Append, Descriptor, Layout, Tensor};
//! # let new = Layout::contiguous([1, 1, 1, 1]);
//! # let plan = Descriptor::new(new, new, new, new).host::<f32, i64, i32>().unwrap();
//! let k_new = [0.0_f64];
//! plan.run(Append { k_new: Tensor::new(&k_new, new), ..Append::default() });
//! ```
//!
//! Another one is a cache that is also read, or that is written twice:
//!
//! ```compile_fail,E0502
//! # use kvappend::{Append, Caches, Descriptor, Layout, Tensor, TensorMut};
//! # let new = Layout::contiguous([1, 1, 1, 1]);
//! # let plan = Descriptor::new(new, new, new, new).host::<f32, i64, i32>().unwrap();
//! let (mut memory, mut v) = ([0.0_f32], [0.0_f32]);
//! plan.run(Append {
//!     k_new: Tensor::new(&memory, new),
//!     caches: Caches::Apart(TensorMut::new(&mut memory, new), TensorMut::new(&mut v, new)),
//!     ..Append::default()
//! });
//! ```
//!
//! The library checks the rest at each run. It knows the size of every slice, and the indices may have any values: no
//! value makes a run access memory outside the slices.
#![warn(missing_docs)]

mod append;
mod descriptor;
mod element;
mod error;
mod gather;
mod layers;
mod layout;
mod moves;
mod plan;
mod rotary;
mod storage;

pub use append::{Append, Caches, Offsets, RawBuffers, Report};
pub use descriptor::{Addressing, Descriptor, Lengths, Skip};
pub use element::{Bf16, E4m3, E5m2, Element, Index, Offset, F16};
pub use error::{Error, Result, Status};
pub use gather::Gather;
pub use kvappend_sys as sys;
pub use kvappend_sys::kvappend_storage as Storage;
pub use layers::{gather_layers, move_layers, run_layers, run_layers_raw};
pub use layout::{Layout, Tensor, TensorMut};
pub use moves::{Move, MovedScales};
pub use plan::Plan;
pub use rotary::{Query, Rotary};
pub use storage::{bytes, bytes_mut, preset, Scales};
