// SPDX-License-Identifier: Apache-2.0
//! Appends new K and V rows to the KV caches of LLM runtimes, reads rows from them, and moves rows within them, by
//! libkvappend. Its header, `kvappend/kvappend.h`, says what each setting means.
//!
//! Describe the problem once, and run the plan at every step:
//!
//! ```
//! use kvappend::{Append, Caches, Descriptor, Layout, Offsets, Tensor, TensorMut};
//!
//! // Two samples, one head: one new row for each, at rows 2 and 0 of caches that hold four rows of three elements.
//! let (new, cache) = (Layout::contiguous([2, 1, 1, 3]), Layout::contiguous([2, 1, 4, 3]));
//! let plan = Descriptor::new(new, new, cache, cache).host::<f32, i64, i32>()?;
//!
//! let (k_new, v_new) = ([1., 2., 3., 4., 5., 6.], [-1., -2., -3., -4., -5., -6.]);
//! let (mut k_cache, mut v_cache) = ([0.; 24], [0.; 24]);
//! plan.run(Append {
//!     k_new: Tensor::new(&k_new, new),
//!     v_new: Tensor::new(&v_new, new),
//!     caches: Caches::Apart(TensorMut::new(&mut k_cache, cache), TensorMut::new(&mut v_cache, cache)),
//!     offsets: Offsets::Read(&[2, 0]),
//!     ..Append::default()
//! })?;
//! assert_eq!(k_cache[6..9], [1., 2., 3.]);
//! assert_eq!(v_cache[12..15], [-4., -5., -6.]);
//! # Ok::<(), kvappend::Error>(())
//! ```
//!
//! What would make a run unsound does not compile: elements of another type than the plan's,
//!
//! ```compile_fail,E0308
//! # use kvappend::{Append, Descriptor, Layout, Tensor};
//! # let new = Layout::contiguous([1, 1, 1, 1]);
//! # let plan = Descriptor::new(new, new, new, new).host::<f32, i64, i32>().unwrap();
//! let k_new = [0.0_f64];
//! plan.run(Append { k_new: Tensor::new(&k_new, new), ..Append::default() });
//! ```
//!
//! and a cache that is also read, or written twice:
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
//! The rest the library checks at each run, as every slice comes with its size.

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
