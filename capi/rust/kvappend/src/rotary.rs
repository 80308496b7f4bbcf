// SPDX-License-Identifier: Apache-2.0
use crate::descriptor::{agree, extent, row_bytes, strides};
use crate::error::Result;
use crate::{Layout, Storage, Tensor, TensorMut};
use kvappend_sys as sys;
use std::ptr;

/// How an append rotates the rows of K before it stores them, and the rows of Q with them: see
/// [`Descriptor::rotary`](crate::Descriptor::rotary).
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotary {
    /// A `KVAPPEND_ROTARY_*`. 0: by halves.
    pub style: i32,
    /// Of the tables: `KVAPPEND_ELEMENT_F32`, `_F16` or `_BF16`. 0: `f32`.
    pub table_type: i32,
    /// The number of elements of a row that are rotated.
    pub dim: usize,
    /// The first of them in a row of K.
    pub first: usize,
    /// The positions that the tables have.
    pub table_rows: usize,
    /// Elements from one row of a table to the next. 0: `dim / 2`.
    pub table_stride: usize,
    /// Of Q, `[B, H, L, D]` with heads and elements of its own. If its rows have no elements, there is no Q.
    pub q: Layout,
    /// The first rotated element of a row of Q.
    pub q_first: usize,
    /// Of the rotated rows of Q. `None`: that of `q`, which [`Query::InPlace`] needs.
    pub q_out: Option<Layout>,
    /// How the rotated rows of Q are stored. Their layout then counts bytes, as that of a cache with a storage does.
    pub q_storage: Option<Storage>,
}

impl Rotary {
    /// The layouts of Q and of its rotated rows.
    pub(crate) fn query(&self) -> [Layout; 2] {
        [self.q, self.q_out.unwrap_or(self.q)]
    }

    /// For new rows of this shape. The storage is not that of `self`, but has its size set.
    pub(crate) fn in_c(&self, new: [usize; 4], q_storage: Option<&Storage>) -> Result<sys::kvappend_rotary> {
        let [batch, _, rows, _] = new;
        let [q, q_out] = &self.query();
        let [_, q_heads, _, q_dim] = q.shape;
        let q_row = q_storage.map_or(Ok(q_dim), |storage| row_bytes(storage, q_dim))?;
        if q_dim != 0 {
            agree("q", q, [Some(batch), None, Some(rows), None])?;
            agree("q_out", q_out, [Some(batch), Some(q_heads), Some(rows), Some(q_row)])?;
        }
        Ok(sys::kvappend_rotary {
            style: self.style,
            table_type: self.table_type,
            dim: extent(self.dim)?,
            first: extent(self.first)?,
            table_rows: extent(self.table_rows)?,
            table_stride: extent(self.table_stride)?,
            q_heads: if q_dim == 0 { 0 } else { extent(q_heads)? },
            q_dim: extent(q_dim)?,
            q_first: extent(self.q_first)?,
            q_strides: strides(q)?,
            q_out_strides: strides(q_out)?,
            q_storage: q_storage.map_or(ptr::null(), ptr::from_ref),
            ..Default::default()
        })
    }
}

/// The rows of Q of an append that rotates them, by the positions of the rows of K.
#[derive(Debug, Default)]
pub enum Query<'a, T> {
    /// There is no Q.
    #[default]
    None,
    /// The rotated rows take the place of the rows.
    InPlace(TensorMut<'a, T>),
    /// From one tensor to another.
    Apart(Tensor<'a, T>, TensorMut<'a, T>),
    /// The same, for [`Rotary::q_storage`]: the rotated rows are in bytes.
    Stored(Tensor<'a, T>, TensorMut<'a, u8>),
}

impl<T> Query<'_, T> {
    pub(crate) fn layouts(&self) -> [Layout; 2] {
        match self {
            Self::None => [Layout::default(); 2],
            Self::InPlace(q) => [q.layout; 2],
            Self::Apart(q, out) => [q.layout, out.layout],
            Self::Stored(q, out) => [q.layout, out.layout],
        }
    }

    /// Q, and its rotated rows as elements or in bytes.
    pub(crate) fn into_raw(self) -> (*const [T], *mut [T], *mut [u8]) {
        let nothing = ptr::from_mut(&mut []);
        match self {
            Self::None => (&[], ptr::from_mut(&mut []), nothing),
            Self::InPlace(q) => {
                let memory = ptr::from_mut(q.memory);
                (memory, memory, nothing)
            }
            Self::Apart(q, out) => (q.memory, out.memory, nothing),
            Self::Stored(q, out) => (q.memory, ptr::from_mut(&mut []), out.memory),
        }
    }
}
