// SPDX-License-Identifier: Apache-2.0

/// How the elements of a tensor `[batch or block, head, row, element]` lie in memory. The elements of a row are
/// adjacent, unless the rows are in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub(crate) shape: [usize; 4],
    pub(crate) strides: [usize; 3],
    pub(crate) pack: usize,
    pub(crate) piece_stride: usize,
}

impl Layout {
    /// `[B, H, L, D]` without gaps.
    pub const fn contiguous(shape: [usize; 4]) -> Self {
        let [_, heads, rows, dim] = shape;
        let head = rows.saturating_mul(dim);
        Self {
            shape,
            strides: [heads.saturating_mul(head), head, dim],
            pack: 0,
            piece_stride: 0,
        }
    }

    /// `[B, L, H, D]` without gaps, tokens outside heads. `shape` is in the order of all layouts: `[B, H, L, D]`.
    pub const fn tokens_outside(shape: [usize; 4]) -> Self {
        let [_, heads, rows, dim] = shape;
        let token = heads.saturating_mul(dim);
        Self::strided(shape, [rows.saturating_mul(token), dim, token])
    }

    /// The tokens of all samples, one after the other, `[T, H, D]`, as [`Lengths::Packed`](crate::Lengths::Packed) and
    /// [`Addressing::Slots`](crate::Addressing::Slots) take them.
    pub const fn packed([tokens, heads, dim]: [usize; 3]) -> Self {
        Self::tokens_outside([1, heads, tokens, dim])
    }

    /// Strides are in elements, from one batch entry, head and row to the next. Three zeros mean contiguous, as they do
    /// to the library.
    pub const fn strided(shape: [usize; 4], strides: [usize; 3]) -> Self {
        if matches!(strides, [0, 0, 0]) {
            return Self::contiguous(shape);
        }
        Self {
            shape,
            strides,
            pack: 0,
            piece_stride: 0,
        }
    }

    /// A cache with rows in pieces of `pack` elements, `[N, H, D / pack, R, pack]` without gaps. `shape` is `[N, H, R,
    /// D]`.
    pub const fn in_pieces(shape: [usize; 4], pack: usize) -> Self {
        let [_, heads, rows, dim] = shape;
        let head = rows.saturating_mul(dim);
        let strides = [heads.saturating_mul(head), head, pack];
        Self {
            shape,
            strides,
            pack,
            piece_stride: rows.saturating_mul(pack),
        }
    }

    /// `[batch or block, head, row, element]`.
    pub const fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// From one batch entry or block, head and row to the next.
    pub const fn strides(&self) -> [usize; 3] {
        self.strides
    }
}

/// New rows, or the cache of a gather: memory from element `[0, 0, 0, 0]` on, as far as it may be read.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a, T> {
    pub(crate) memory: &'a [T],
    pub(crate) layout: Layout,
}

impl<'a, T> Tensor<'a, T> {
    /// A tensor whose element `[0, 0, 0, 0]` is `memory[0]`.
    pub const fn new(memory: &'a [T], layout: Layout) -> Self {
        Self { memory, layout }
    }
}

impl<T> Default for Tensor<'_, T> {
    fn default() -> Self {
        Self::new(&[], Layout::default())
    }
}

/// A cache, or the rows of a gather: memory from element `[0, 0, 0, 0]` on, as far as it may be written.
#[derive(Debug)]
pub struct TensorMut<'a, T> {
    pub(crate) memory: &'a mut [T],
    pub(crate) layout: Layout,
}

impl<'a, T> TensorMut<'a, T> {
    /// A tensor whose element `[0, 0, 0, 0]` is `memory[0]`.
    pub fn new(memory: &'a mut [T], layout: Layout) -> Self {
        Self { memory, layout }
    }
}

impl<T> Default for TensorMut<'_, T> {
    fn default() -> Self {
        Self::new(&mut [], Layout::default())
    }
}
