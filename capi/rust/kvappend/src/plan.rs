// SPDX-License-Identifier: Apache-2.0
use crate::error::{check, Error, Result};
use crate::{Append, Element, Gather, Index, Layout, Move, Offset, Offsets, RawBuffers, Scales};
use kvappend_sys as sys;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

/// A checked problem, together with the kernel chosen for it. A plan never changes, so any number of threads may run
/// one plan at once. `T` is the type of the elements of K and V, `O` that of offsets, slots and positions, and `I` that
/// of all other indices.
#[derive(Debug)]
pub struct Plan<T, O, I = i32> {
    plan: NonNull<sys::kvappend_plan>,
    backend: i32,
    operation: i32,
    layouts: [Layout; 4],
    /// Of Q and of its rotated rows.
    query: [Layout; 2],
    advances: bool,
    /// Of K and of V, if they have storages.
    scalings: Option<[i32; 2]>,
    types: PhantomData<fn(T, O, I)>,
}

// SAFETY: the library lets every thread use and destroy a plan, and Drop alone destroys it.
unsafe impl<T, O, I> Send for Plan<T, O, I> {}
// SAFETY: the library lets any number of threads use a plan at once.
unsafe impl<T, O, I> Sync for Plan<T, O, I> {}

impl<T, O, I> Drop for Plan<T, O, I> {
    fn drop(&mut self) {
        // SAFETY: the plan is this object's own, and no borrow of it is left. The call always succeeds.
        unsafe { sys::kvappend_plan_destroy(self.plan.as_ptr()) };
    }
}

impl<T: Element, O: Offset, I: Index> Plan<T, O, I> {
    /// # Safety
    ///
    /// The plan is nobody else's, and what the other arguments say of it is true.
    pub(crate) unsafe fn from_raw(
        plan: *mut sys::kvappend_plan,
        backend: i32,
        operation: i32,
        layouts: [Layout; 4],
        query: [Layout; 2],
        advances: bool,
        scalings: Option<[i32; 2]>,
    ) -> Self {
        let plan = NonNull::new(plan).expect("a plan that was created");
        Self {
            plan,
            backend,
            operation,
            layouts,
            query,
            advances,
            scalings,
            types: PhantomData,
        }
    }

    /// Appends in host memory. The rows are written when the call returns.
    pub fn run(&self, append: Append<'_, T, O, I>) -> Result<()> {
        let buffers = self.checked(append)?;
        // SAFETY: the backend is the host, the slices were borrowed for the call, each as the plan uses it, and their
        // sizes are given, to which the library keeps whatever the indices are. Where two rows have one place, it
        // leaves bytes of either, and any bits are an element.
        unsafe { self.run_raw(&buffers, ptr::null_mut()) }
    }

    /// Gathers in host memory. The rows have been read when the call returns. The plan comes from
    /// [`Descriptor::gather`](crate::Descriptor::gather):
    ///
    /// ```
    /// use kvappend::{Descriptor, Gather, Layout, Tensor, TensorMut};
    ///
    /// let (rows, cache) = (Layout::contiguous([1, 1, 2, 1]), Layout::contiguous([1, 1, 4, 1]));
    /// let plan = Descriptor::new(rows, rows, cache, cache).gather().host::<f32, i64, i32>()?;
    /// let (mut k_out, mut v_out) = ([0.; 2], [0.; 2]);
    /// plan.gather(Gather {
    ///     k_cache: Tensor::new(&[1., 2., 3., 4.], cache),
    ///     v_cache: Tensor::new(&[-1., -2., -3., -4.], cache),
    ///     k_out: TensorMut::new(&mut k_out, rows),
    ///     v_out: TensorMut::new(&mut v_out, rows),
    ///     offsets: &[1],
    ///     ..Gather::default()
    /// })?;
    /// assert_eq!((k_out, v_out), ([2., 3.], [-2., -3.]));
    /// # Ok::<(), kvappend::Error>(())
    /// ```
    pub fn gather(&self, gather: Gather<'_, T, O, I>) -> Result<()> {
        let buffers = self.checked_gather(gather)?;
        // SAFETY: as in run. The plan is a gather, which writes nothing but the rows and the report.
        unsafe { self.run_raw(&buffers, ptr::null_mut()) }
    }

    /// Moves rows within the caches in host memory. They have been moved when the call returns. The plan comes from
    /// [`Descriptor::move_rows`](crate::Descriptor::move_rows):
    ///
    /// ```
    /// use kvappend::{Caches, Descriptor, Layout, Move, TensorMut};
    ///
    /// let cache = Layout::contiguous([1, 1, 4, 1]);
    /// let plan = Descriptor::move_rows(2, cache, cache).host::<f32, i64, i32>()?;
    /// let (mut k, mut v) = ([1., 2., 3., 4.], [-1., -2., -3., -4.]);
    /// plan.move_rows(Move {
    ///     caches: Caches::Apart(TensorMut::new(&mut k, cache), TensorMut::new(&mut v, cache)),
    ///     from_slots: &[2, 3],
    ///     slots: &[1, 2],
    ///     ..Move::default()
    /// })?;
    /// assert_eq!((k, v), ([1., 3., 4., 4.], [-1., -3., -4., -4.]));
    /// # Ok::<(), kvappend::Error>(())
    /// ```
    pub fn move_rows(&self, moved: Move<'_, T, O, I>) -> Result<()> {
        let buffers = self.checked_move(moved)?;
        // SAFETY: as in run. The plan is a move, which writes nothing but caches, scales that were lent for it, and the
        // report.
        unsafe { self.run_raw(&buffers, ptr::null_mut()) }
    }

    /// Looks for faults in the arrays of indices and in the scales of a run in host memory: indices out of range, rows
    /// without a place, two rows with the same place. The run itself skips rows without a place. The error names the
    /// fault. This is meant for development and tests.
    pub fn validate(&self, append: Append<'_, T, O, I>) -> Result<()> {
        self.validate_checked(&self.checked(append)?)
    }

    /// The same for a gather.
    pub fn validate_gather(&self, gather: Gather<'_, T, O, I>) -> Result<()> {
        self.validate_checked(&self.checked_gather(gather)?)
    }

    /// The same for a move.
    pub fn validate_move(&self, moved: Move<'_, T, O, I>) -> Result<()> {
        self.validate_checked(&self.checked_move(moved)?)
    }

    fn validate_checked(&self, buffers: &RawBuffers<T, O, I>) -> Result<()> {
        let args = buffers.in_c();
        let (workspace, stream, fault) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: as in run. Nothing is written.
        check(unsafe { sys::kvappend_plan_validate(self.plan.as_ptr(), &args, workspace, 0, stream, fault) })
    }

    /// Appends, or gathers or moves if the plan does, in the order of a CUDA stream (or, with a NULL stream, in host
    /// memory).
    ///
    /// # Safety
    ///
    /// - Each pointer that the plan needs is valid for its number of elements, in memory that the plan's backend can
    ///   reach.
    /// - What the run writes may be written: the caches of an append or a move, the rows of a gather, offsets that the
    ///   plan advances, scales that it computes or moves, the rotated rows of Q, and the report.
    /// - Until the stream has finished the run, all buffers stay valid, nothing else writes them, and nothing else
    ///   accesses what the run writes.
    pub unsafe fn run_raw(&self, buffers: &RawBuffers<T, O, I>, stream: *mut sys::CUstream_st) -> Result<()> {
        let args = buffers.in_c();
        // SAFETY: the plan and the struct are valid; the rest is the caller's promise. No workspace is needed.
        check(unsafe { sys::kvappend_plan_run(self.plan.as_ptr(), &args, ptr::null_mut(), 0, stream) })
    }

    /// What the library chose for the plan, such as its `device`.
    pub fn sku(&self) -> Result<sys::kvappend_sku> {
        let mut sku = sys::kvappend_sku::default();
        // SAFETY: both pointers are valid.
        check(unsafe { sys::kvappend_plan_get_sku(self.plan.as_ptr(), &mut sku) })?;
        Ok(sku)
    }

    /// What the plan guarantees for the values that it writes.
    pub fn precision_guarantee(&self) -> Result<sys::kvappend_precision_guarantee> {
        let mut guarantee = sys::kvappend_precision_guarantee::default();
        // SAFETY: both pointers are valid.
        check(unsafe { sys::kvappend_plan_get_precision_guarantee(self.plan.as_ptr(), &mut guarantee) })?;
        Ok(guarantee)
    }

    /// The chosen kernel's name in the library's table.
    pub fn kernel_name(&self) -> Result<&'static str> {
        // SAFETY: a static string of the library, which this program is linked to.
        Ok(unsafe { CStr::from_ptr(self.sku()?.kernel_name) }
            .to_str()
            .unwrap_or("not UTF-8"))
    }

    /// The plan as the functions of [`sys`] take it. It is valid as long as this object.
    pub fn as_ptr(&self) -> *const sys::kvappend_plan {
        self.plan.as_ptr()
    }

    /// What the library cannot see: that the buffers are the host's, that they are laid out as the plan assumes, and
    /// that it writes no offsets and no scales which were lent for reading.
    pub(crate) fn checked(&self, append: Append<'_, T, O, I>) -> Result<RawBuffers<T, O, I>> {
        self.check_backend()?;
        self.check_operation(sys::KVAPPEND_OPERATION_APPEND)?;
        let [k_cache, v_cache] = match self.scalings {
            Some(_) => append.stored.layouts(),
            None => append.caches.layouts(),
        };
        let names = ["k_new", "v_new", "k_cache", "v_cache"];
        let given = [append.k_new.layout, append.v_new.layout, k_cache, v_cache];
        self.check_layouts(&names, &given, &self.layouts)?;
        self.check_layouts(&["q", "q_out"], &append.q.layouts(), &self.query)?;
        let lent = [("k_scales", &append.k_scales), ("v_scales", &append.v_scales)];
        for ((name, scales), scaling) in lent.iter().zip(self.scalings.unwrap_or_default()) {
            if matches!(scales, Scales::Given(_)) && scaling == sys::KVAPPEND_SCALING_COMPUTED {
                let message = format!("the plan computes {name}: expected Scales::Computed or Scales::Inside");
                return Err(Error::new(sys::KVAPPEND_ERROR_CONFLICT, message));
            }
        }
        match (&append.offsets, self.advances) {
            (Offsets::Read(_), true) => Err(Error::new(
                sys::KVAPPEND_ERROR_CONFLICT,
                "the plan advances the offsets: expected Offsets::advance",
            )),
            (Offsets::Advance(_), false) => Err(Error::new(
                sys::KVAPPEND_ERROR_CONFLICT,
                "the plan does not advance the offsets: expected Offsets::Read",
            )),
            _ => Ok(append.into_raw(self.scalings.is_some())),
        }
    }

    /// The same for a gather, which writes neither caches, offsets nor scales.
    pub(crate) fn checked_gather(&self, gather: Gather<'_, T, O, I>) -> Result<RawBuffers<T, O, I>> {
        self.check_backend()?;
        self.check_operation(sys::KVAPPEND_OPERATION_GATHER)?;
        let caches = match self.scalings {
            Some(_) => [gather.k_stored.layout, gather.v_stored.layout],
            None => [gather.k_cache.layout, gather.v_cache.layout],
        };
        let names = ["k_out", "v_out", "k_cache", "v_cache"];
        let given = [gather.k_out.layout, gather.v_out.layout, caches[0], caches[1]];
        self.check_layouts(&names, &given, &self.layouts)?;
        Ok(gather.into_raw(self.scalings.is_some()))
    }

    /// The same for a move, which has no rows.
    pub(crate) fn checked_move(&self, moved: Move<'_, T, O, I>) -> Result<RawBuffers<T, O, I>> {
        self.check_backend()?;
        self.check_operation(sys::KVAPPEND_OPERATION_MOVE)?;
        let caches = match self.scalings {
            Some(_) => moved.stored.layouts(),
            None => moved.caches.layouts(),
        };
        self.check_layouts(&["k_cache", "v_cache"], &caches, &self.layouts[2..])?;
        Ok(moved.into_raw(self.scalings.is_some()))
    }

    fn check_backend(&self) -> Result<()> {
        if self.backend == sys::KVAPPEND_BACKEND_HOST {
            return Ok(());
        }
        let message = "the plan is of the CUDA backend: expected run_raw with pointers that the device can reach";
        Err(Error::new(sys::KVAPPEND_ERROR_BACKEND, message))
    }

    fn check_operation(&self, expected: i32) -> Result<()> {
        if self.operation == expected {
            return Ok(());
        }
        let message = match self.operation {
            sys::KVAPPEND_OPERATION_GATHER => "the plan gathers: expected a Gather",
            sys::KVAPPEND_OPERATION_MOVE => "the plan moves: expected a Move",
            _ => "the plan appends: expected an Append",
        };
        Err(Error::new(sys::KVAPPEND_ERROR_OPERATION, message))
    }

    fn check_layouts(&self, names: &[&str], given: &[Layout], expected: &[Layout]) -> Result<()> {
        for ((name, given), expected) in names.iter().zip(given).zip(expected) {
            // A tensor whose rows have no elements does not exist, and need not be given.
            if given != expected && expected.shape()[3] != 0 {
                let message = format!("{name} is laid out as {given:?}: expected {expected:?}");
                return Err(Error::new(sys::KVAPPEND_ERROR_CONFLICT, message));
            }
        }
        Ok(())
    }
}
