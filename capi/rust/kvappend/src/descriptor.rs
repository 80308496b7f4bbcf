// SPDX-License-Identifier: Apache-2.0
use crate::error::{check, Error, Result};
use crate::storage::bits;
use crate::{Element, Index, Layout, Offset, Plan, Rotary, Storage};
use kvappend_sys as sys;
use std::ffi::CString;
use std::ptr;

/// How the place of a row is found in a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// Sample b has block b, and a row its position.
    #[default]
    Dense,
    /// The same, but positions from `sink_rows` on wrap around in the rows after the first `sink_rows`.
    Ring {
        /// The number of rows that stay.
        sink_rows: usize,
    },
    /// Pages, by a table `[B, table_entries]`. Rows on the reserved page are padding.
    Paged {
        /// The number of pages of each sample.
        table_entries: usize,
        /// The number of elements from sample to sample. 0: `table_entries`.
        table_stride: usize,
        /// The reserved page.
        reserved: Option<i64>,
    },
    /// Pages, by tables of different lengths, one after the other. Rows on the reserved page are padding.
    PagedCsr {
        /// The number of pages of all samples.
        table_entries: usize,
        /// The reserved page.
        reserved: Option<i64>,
    },
    /// Pages, by a slot for each token. New rows are [`Layout::packed`]. This is the only addressing of a move. The
    /// reserved slot is padding.
    Slots {
        /// The reserved slot.
        reserved: Option<i64>,
    },
}

/// How many new rows each sample has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lengths {
    /// All rows of the new tensors.
    #[default]
    Fixed,
    /// `lengths[b]`.
    PerSample,
    /// The rows from `lengths[b]` to `lengths[b + 1] - 1`, in new tensors that are [`Layout::packed`], or in the slots
    /// of a move.
    Packed {
        /// The number of samples.
        batch: usize,
    },
    /// Each row is a token. It belongs to sample `token_samples[t]`, and has the position `token_positions[t]`. New
    /// tensors are [`Layout::packed`], and there are no offsets.
    PerToken {
        /// The number of samples.
        batch: usize,
    },
}

/// What happens when a row has no place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Skip {
    /// The run says nothing of it.
    #[default]
    Silently,
    /// It is counted in the run's report.
    Report {
        /// Rows that are written are counted, too.
        count_written: bool,
        /// The run sets the report to zero first.
        reset: bool,
    },
    /// Host: the run fails before anything is written. CUDA: the device stops.
    Trap,
}

/// What is the same at every run of a plan.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// Of `k_new`, `v_new`, `k_cache` and `v_cache`.
    layouts: [Layout; 4],
    /// Of K and of V.
    storages: Option<[Storage; 2]>,
    rotary: Option<Rotary>,
    addressing: Addressing,
    lengths: Lengths,
    skip: Skip,
    operation: i32,
    flags: i32,
    host_threads: i32,
    kernel_name: Option<String>,
}

impl Descriptor {
    /// The dense append of tensors with these layouts. [`gather`](Self::gather) makes it a gather. `k_new` and `v_new`
    /// are then the layouts of `k_out` and `v_out`. If the rows of K, or of V, have no elements, there is no K, or no
    /// V.
    pub fn new(k_new: Layout, v_new: Layout, k_cache: Layout, v_cache: Layout) -> Self {
        Self {
            layouts: [k_new, v_new, k_cache, v_cache],
            storages: None,
            rotary: None,
            addressing: Addressing::default(),
            lengths: Lengths::default(),
            skip: Skip::default(),
            operation: sys::KVAPPEND_OPERATION_APPEND,
            flags: 0,
            host_threads: 0,
            kernel_name: None,
        }
    }

    /// The move of `rows` rows within caches with these layouts, from slots to slots. Run it by [`Plan::move_rows`].
    /// With [`Lengths::Packed`], different samples are moved at the same time, and the rows of a sample one after the
    /// other.
    pub fn move_rows(rows: usize, k_cache: Layout, v_cache: Layout) -> Self {
        let moved = Layout {
            shape: [1, k_cache.shape[1], rows, 0],
            ..Layout::default()
        };
        Self {
            addressing: Addressing::Slots { reserved: None },
            operation: sys::KVAPPEND_OPERATION_MOVE,
            ..Self::new(moved, moved, k_cache, v_cache)
        }
    }

    /// Rows are read from the caches instead of being appended to them. Run it by [`Plan::gather`].
    pub fn gather(self) -> Self {
        Self {
            operation: sys::KVAPPEND_OPERATION_GATHER,
            ..self
        }
    }

    /// With [`gather`](Self::gather), rows that are not read from a cache are set to zero.
    pub fn zero_skipped(self) -> Self {
        self.flag(sys::KVAPPEND_FLAG_ZERO_SKIPPED)
    }

    /// How the place of a row is found. By default [`Addressing::Dense`].
    pub fn addressing(self, addressing: Addressing) -> Self {
        Self { addressing, ..self }
    }

    /// How many rows each sample has. By default [`Lengths::Fixed`].
    pub fn lengths(self, lengths: Lengths) -> Self {
        Self { lengths, ..self }
    }

    /// What happens when a row has no place. By default [`Skip::Silently`].
    pub fn skip(self, skip: Skip) -> Self {
        Self { skip, ..self }
    }

    /// How the caches store their rows. Runs take them as [`Append::stored`](crate::Append::stored), gathers as
    /// [`Gather::k_stored`](crate::Gather::k_stored), and moves as [`Move::stored`](crate::Move::stored), in bytes, and
    /// their layouts count bytes: a row of D elements has D * bits / 8 bytes, rounded up. Rows that keep their bits
    /// have the stored type of the elements, such as `KVAPPEND_STORED_F16`. If there is no V, `v` has no effect.
    pub fn storage(self, k: Storage, v: Storage) -> Self {
        Self {
            storages: Some([k, v]),
            ..self
        }
    }

    /// An append rotates the rows of K before it stores them, and the rows of Q with them. Runs take the tables as
    /// [`Append::rotary_cos`](crate::Append::rotary_cos) and `rotary_sin`, and Q as `q`.
    ///
    /// ```
    /// use kvappend::{bytes, Append, Caches, Descriptor, Layout, Offsets, Rotary, Tensor, TensorMut};
    ///
    /// let (new, cache) = (Layout::contiguous([1, 1, 1, 2]), Layout::contiguous([1, 1, 4, 2]));
    /// let (no_v, no_v_cache) = (Layout::contiguous([1, 1, 1, 0]), Layout::contiguous([1, 1, 4, 0]));
    /// let rotary = Rotary { dim: 2, table_rows: 4, ..Rotary::default() };
    /// let plan = Descriptor::new(new, no_v, cache, no_v_cache).rotary(rotary).host::<f32, i64, i32>()?;
    ///
    /// // Position p is rotated by p quarter turns.
    /// let (cos, sin) = ([1_f32, 0., -1., 0.], [0_f32, 1., 0., -1.]);
    /// let mut k_cache = [0.; 8];
    /// plan.run(Append {
    ///     k_new: Tensor::new(&[3., 4.], new),
    ///     caches: Caches::Apart(TensorMut::new(&mut k_cache, cache), TensorMut::default()),
    ///     offsets: Offsets::Read(&[1]),
    ///     rotary_cos: bytes(&cos),
    ///     rotary_sin: bytes(&sin),
    ///     ..Append::default()
    /// })?;
    /// assert_eq!(k_cache[2..4], [-4., 3.]);
    /// # Ok::<(), kvappend::Error>(())
    /// ```
    pub fn rotary(self, rotary: Rotary) -> Self {
        Self {
            rotary: Some(rotary),
            ..self
        }
    }

    /// With [`rotary`](Self::rotary), [`Append::positions`](crate::Append::positions) has the position by which each
    /// row is rotated. Slots need it.
    pub fn positions(self) -> Self {
        self.flag(sys::KVAPPEND_FLAG_POSITIONS)
    }

    /// `batch_index[b]` says which block of the cache is a sample's.
    pub fn batch_index(self) -> Self {
        self.flag(sys::KVAPPEND_FLAG_BATCH_INDEX)
    }

    /// A sample begins with `left_pads[b]` rows of padding.
    pub fn left_pads(self) -> Self {
        self.flag(sys::KVAPPEND_FLAG_LEFT_PADS)
    }

    /// Every offset is 0, and none is given.
    pub fn zero_offsets(self) -> Self {
        self.flag(sys::KVAPPEND_FLAG_ZERO_OFFSETS)
    }

    /// All samples have the same offset, and [`Offsets`](crate::Offsets) has one element.
    pub fn shared_offset(self) -> Self {
        self.flag(sys::KVAPPEND_FLAG_SHARED_OFFSET)
    }

    /// Each offset is the number of rows that the sample has after the append.
    pub fn end_offsets(self) -> Self {
        self.flag(sys::KVAPPEND_FLAG_END_OFFSETS)
    }

    /// Each offset is the number of rows that the sample has on its last page after the append, with
    /// [`Addressing::PagedCsr`].
    pub fn last_page_lengths(self) -> Self {
        self.flag(sys::KVAPPEND_FLAG_LAST_PAGE_LENGTHS)
    }

    /// With [`Addressing::Slots`] and [`Lengths::PerToken`], `token_count[0]` is the number of tokens. Later tokens are
    /// padding.
    pub fn token_count(self) -> Self {
        self.flag(sys::KVAPPEND_FLAG_TOKEN_COUNT)
    }

    /// After the copy, the run adds the number of each sample's rows to its offset. Runs need [`Offsets::Advance`].
    ///
    /// [`Offsets::Advance`]: crate::Offsets::Advance
    pub fn advance(self) -> Self {
        self.flag(sys::KVAPPEND_FLAG_ADVANCE)
    }

    /// CUDA: the copy may start while the kernel before it still runs.
    pub fn programmatic_launch(self) -> Self {
        self.flag(sys::KVAPPEND_FLAG_PROGRAMMATIC_LAUNCH)
    }

    /// Host: the number of threads that share a large run, including the calling thread.
    pub fn host_threads(self, host_threads: i32) -> Self {
        Self { host_threads, ..self }
    }

    /// The kernel to use, by its name in the library's table.
    pub fn kernel_name(self, name: impl Into<String>) -> Self {
        Self {
            kernel_name: Some(name.into()),
            ..self
        }
    }

    /// A plan for host memory.
    pub fn host<T: Element, O: Offset, I: Index>(&self) -> Result<Plan<T, O, I>> {
        self.plan(sys::KVAPPEND_BACKEND_HOST)
    }

    /// A plan for the CUDA device that is current.
    pub fn cuda<T: Element, O: Offset, I: Index>(&self) -> Result<Plan<T, O, I>> {
        self.plan(sys::KVAPPEND_BACKEND_CUDA)
    }

    fn flag(self, flag: i32) -> Self {
        Self {
            flags: self.flags | flag,
            ..self
        }
    }

    fn plan<T: Element, O: Offset, I: Index>(&self, backend: i32) -> Result<Plan<T, O, I>> {
        // The library must not read more than the struct has.
        let struct_size = size_of::<Storage>();
        let storages = self
            .storages
            .map(|both| both.map(|storage| Storage { struct_size, ..storage }));
        let rotary = self.rotary.unwrap_or_default();
        let q_storage = rotary.q_storage.map(|storage| Storage { struct_size, ..storage });
        let rotary_in_c = rotary.in_c(self.layouts[0].shape, q_storage.as_ref())?;
        let storage = |i: usize| storages.as_ref().map_or(ptr::null(), |both| ptr::from_ref(&both[i]));
        let descriptor = sys::kvappend_descriptor {
            backend,
            element_type: T::TYPE,
            offset_type: O::TYPE,
            index_type: I::TYPE,
            k_storage: storage(0),
            v_storage: storage(1),
            rotary: self.rotary.map_or(ptr::null(), |_| &rotary_in_c),
            ..self.in_c()?
        };
        let kernel_name = self
            .kernel_name
            .as_deref()
            .map(CString::new)
            .transpose()
            .map_err(|error| Error::new(sys::KVAPPEND_ERROR_KERNEL, format!("kernel_name: {error}")))?;
        let preference = sys::kvappend_preference {
            kernel_name: kernel_name.as_ref().map_or(ptr::null(), |name| name.as_ptr()),
            host_threads: self.host_threads,
            ..Default::default()
        };
        let mut plan = ptr::null_mut();
        // SAFETY: all pointers are valid, and none is kept.
        check(unsafe { sys::kvappend_plan_create(&descriptor, &preference, &mut plan) })?;
        let advances = self.flags & sys::KVAPPEND_FLAG_ADVANCE != 0;
        let scalings = storages.map(|both| both.map(|storage| storage.scaling));
        // SAFETY: the plan is new, and was made of these types, layouts, operation, flags and storages.
        Ok(unsafe {
            Plan::from_raw(
                plan,
                backend,
                self.operation,
                self.layouts,
                rotary.query(),
                advances,
                scalings,
            )
        })
    }

    /// The layouts of the rows. Those of a move have as many elements as the rows of the caches, and no strides.
    fn rows(&self) -> Result<[Layout; 2]> {
        let mut rows = [self.layouts[0], self.layouts[1]];
        if self.operation != sys::KVAPPEND_OPERATION_MOVE {
            return Ok(rows);
        }
        for (i, rows) in rows.iter_mut().enumerate() {
            let row = self.layouts[2 + i].shape[3];
            rows.shape[3] = match &self.storages {
                Some(both) => row.saturating_mul(8) / bits(&both[i])?,
                None => row,
            };
        }
        Ok(rows)
    }

    fn in_c(&self) -> Result<sys::kvappend_descriptor> {
        let [_, _, k_cache, v_cache] = &self.layouts;
        let [k_new, v_new] = &self.rows()?;
        let [new_batch, heads, new_rows, k_dim] = k_new.shape;
        let [blocks, _, cache_rows, _] = k_cache.shape;
        let v_dim = v_new.shape[3];
        let (mut k_row, mut v_row, mut packs) = (k_dim, v_dim, [k_cache.pack, v_cache.pack]);
        if let Some([k, v]) = &self.storages {
            (k_row, v_row) = (row_bytes(k, k_dim)?, row_bytes(v, v_dim)?);
            packs = [pack(k, k_cache)?, pack(v, v_cache)?];
        }
        agree("v_new", v_new, [Some(new_batch), Some(heads), Some(new_rows), None])?;
        agree("k_cache", k_cache, [None, Some(heads), None, Some(k_row)])?;
        agree(
            "v_cache",
            v_cache,
            [Some(blocks), Some(heads), Some(cache_rows), Some(v_row)],
        )?;
        let batch = match self.lengths {
            Lengths::Packed { batch } | Lengths::PerToken { batch } => batch,
            _ => new_batch,
        };
        if blocks == 0 && batch != 0 {
            // To the library 0 would mean as many blocks as samples.
            return Err(Error::new(
                sys::KVAPPEND_ERROR_EXTENT,
                "the caches have no block: expected at least one",
            ));
        }
        let mut descriptor = sys::kvappend_descriptor {
            batch: extent(batch)?,
            heads: extent(heads)?,
            new_rows: extent(new_rows)?,
            cache_rows: extent(cache_rows)?,
            cache_blocks: extent(blocks)?,
            k_dim: extent(k_dim)?,
            v_dim: extent(v_dim)?,
            k_new_strides: strides(k_new)?,
            v_new_strides: strides(v_new)?,
            k_cache_strides: strides(k_cache)?,
            v_cache_strides: strides(v_cache)?,
            k_pack: extent(packs[0])?,
            v_pack: extent(packs[1])?,
            k_piece_stride: extent(k_cache.piece_stride)?,
            v_piece_stride: extent(v_cache.piece_stride)?,
            flags: self.flags,
            operation: self.operation,
            ..Default::default()
        };
        match self.addressing {
            Addressing::Dense => descriptor.addressing = sys::KVAPPEND_ADDRESSING_DENSE,
            Addressing::Ring { sink_rows } => {
                descriptor.addressing = sys::KVAPPEND_ADDRESSING_RING;
                descriptor.sink_rows = extent(sink_rows)?;
            }
            Addressing::Paged {
                table_entries,
                table_stride,
                reserved,
            } => {
                descriptor.addressing = sys::KVAPPEND_ADDRESSING_PAGED;
                descriptor.table_entries = extent(table_entries)?;
                descriptor.table_stride = extent(table_stride)?;
                reserve_page(&mut descriptor, reserved);
            }
            Addressing::PagedCsr {
                table_entries,
                reserved,
            } => {
                descriptor.addressing = sys::KVAPPEND_ADDRESSING_PAGED_CSR;
                descriptor.table_entries = extent(table_entries)?;
                reserve_page(&mut descriptor, reserved);
            }
            Addressing::Slots { reserved } => {
                descriptor.addressing = sys::KVAPPEND_ADDRESSING_SLOTS;
                if let Some(slot) = reserved {
                    descriptor.flags |= sys::KVAPPEND_FLAG_RESERVED_SLOT;
                    descriptor.reserved_slot = slot;
                }
            }
        }
        descriptor.lengths = match self.lengths {
            Lengths::Fixed => sys::KVAPPEND_LENGTHS_FIXED,
            Lengths::PerSample => sys::KVAPPEND_LENGTHS_PER_SAMPLE,
            Lengths::Packed { .. } => sys::KVAPPEND_LENGTHS_PACKED,
            Lengths::PerToken { .. } => sys::KVAPPEND_LENGTHS_PER_TOKEN,
        };
        match self.skip {
            Skip::Silently => descriptor.skip_policy = sys::KVAPPEND_SKIP_SILENTLY,
            Skip::Report { count_written, reset } => {
                descriptor.skip_policy = sys::KVAPPEND_SKIP_REPORT;
                descriptor.flags |= i32::from(count_written) * sys::KVAPPEND_FLAG_COUNT_WRITTEN;
                descriptor.flags |= i32::from(reset) * sys::KVAPPEND_FLAG_RESET_REPORT;
            }
            Skip::Trap => descriptor.skip_policy = sys::KVAPPEND_SKIP_TRAP,
        }
        Ok(descriptor)
    }
}

fn reserve_page(descriptor: &mut sys::kvappend_descriptor, reserved: Option<i64>) {
    if let Some(page) = reserved {
        descriptor.flags |= sys::KVAPPEND_FLAG_RESERVED_PAGE;
        descriptor.reserved_page = page;
    }
}

/// The bytes of a row of `dim` elements.
pub(crate) fn row_bytes(storage: &Storage, dim: usize) -> Result<usize> {
    Ok(dim.saturating_mul(bits(storage)?).div_ceil(8))
}

/// The elements of a piece, whose size the layout has in bytes.
fn pack(storage: &Storage, layout: &Layout) -> Result<usize> {
    let (bits_of_piece, bits) = (layout.pack.saturating_mul(8), bits(storage)?);
    if bits_of_piece % bits == 0 {
        return Ok(bits_of_piece / bits);
    }
    let message = format!(
        "a piece has {} bytes, and a code {bits} bits: expected whole codes",
        layout.pack
    );
    Err(Error::new(sys::KVAPPEND_ERROR_PACK, message))
}

pub(crate) fn agree(name: &str, layout: &Layout, expected: [Option<usize>; 4]) -> Result<()> {
    if layout
        .shape
        .iter()
        .zip(&expected)
        .all(|(extent, expected)| expected.unwrap_or(*extent) == *extent)
    {
        return Ok(());
    }
    let message = format!(
        "{name} has the shape {:?}: expected {expected:?} to match the others",
        layout.shape
    );
    Err(Error::new(sys::KVAPPEND_ERROR_CONFLICT, message))
}

pub(crate) fn extent(value: usize) -> Result<i64> {
    i64::try_from(value).map_err(|_| {
        Error::new(
            sys::KVAPPEND_ERROR_OVERFLOW,
            format!("{value}: expected at most 63 bits"),
        )
    })
}

pub(crate) fn strides(layout: &Layout) -> Result<[i64; 3]> {
    let [batch, head, row] = layout.strides;
    Ok([extent(batch)?, extent(head)?, extent(row)?])
}
