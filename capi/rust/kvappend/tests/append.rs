// SPDX-License-Identifier: Apache-2.0
//! Appends through the safe interface, with every byte of the caches and of the memory around them compared.

use kvappend::{
    sys, Addressing, Append, Bf16, Caches, Descriptor, E4m3, E5m2, Element, Error, Layout, Lengths, Offsets, Plan,
    RawBuffers, Report, Skip, Status, Tensor, TensorMut, F16,
};

const BATCH: usize = 4;
const HEADS: usize = 2;
const NEW_ROWS: usize = 3;
const CACHE_ROWS: usize = 6;
const K_DIM: usize = 5;
const V_DIM: usize = 3;
/// Elements before and behind each cache.
const GUARD: usize = 7;

/// One sample in the middle of its cache, one at its end, one with no row, one that begins before its cache.
const OFFSETS: [i64; BATCH] = [1, 4, 2, -1];
const LENGTHS: [i32; BATCH] = [3, 3, 0, 2];

trait FromBits: Element + std::fmt::Debug {
    fn from_bits(bits: u64) -> Self;
    fn to_bits(self) -> u64;
}

impl FromBits for f32 {
    fn from_bits(bits: u64) -> Self {
        f32::from_bits(bits as u32)
    }
    fn to_bits(self) -> u64 {
        self.to_bits().into()
    }
}

impl FromBits for f64 {
    fn from_bits(bits: u64) -> Self {
        f64::from_bits(bits)
    }
    fn to_bits(self) -> u64 {
        self.to_bits()
    }
}

impl FromBits for u8 {
    fn from_bits(bits: u64) -> Self {
        bits as u8
    }
    fn to_bits(self) -> u64 {
        self.into()
    }
}

impl FromBits for i8 {
    fn from_bits(bits: u64) -> Self {
        bits as i8
    }
    fn to_bits(self) -> u64 {
        (self as u8).into()
    }
}

macro_rules! wrapped_bits {
    ($($name:ident: $bits:ty,)*) => {
        $(impl FromBits for $name {
            fn from_bits(bits: u64) -> Self {
                $name(bits as $bits)
            }
            fn to_bits(self) -> u64 {
                self.0.into()
            }
        })*
    };
}
wrapped_bits! { F16: u16, Bf16: u16, E4m3: u8, E5m2: u8, }

/// Arbitrary bits (by splitmix64), NaNs among them.
fn noise<T: FromBits>(count: usize, seed: u64) -> Vec<T> {
    let bits = |i: usize| {
        let mut z = (seed << 32 | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    (0..count).map(|i| T::from_bits(bits(i))).collect()
}

fn bits<T: FromBits>(elements: &[T]) -> Vec<u64> {
    elements.iter().map(|element| element.to_bits()).collect()
}

fn elements(layout: &Layout) -> usize {
    layout.shape().iter().product()
}

/// Where row [b, h, l] of a tensor begins.
fn row(layout: &Layout, b: usize, h: usize, l: usize) -> usize {
    let [batch, head, row] = layout.strides();
    b * batch + h * head + l * row
}

struct Case<T> {
    layouts: [Layout; 4],
    k_new: Vec<T>,
    v_new: Vec<T>,
    /// With their guards.
    k_memory: Vec<T>,
    v_memory: Vec<T>,
}

impl<T: FromBits> Case<T> {
    fn new(seed: u64) -> Self {
        let layouts = [
            Layout::contiguous([BATCH, HEADS, NEW_ROWS, K_DIM]),
            Layout::tokens_outside([BATCH, HEADS, NEW_ROWS, V_DIM]),
            Layout::tokens_outside([BATCH, HEADS, CACHE_ROWS, K_DIM]),
            Layout::contiguous([BATCH, HEADS, CACHE_ROWS, V_DIM]),
        ];
        let [k_new, v_new, k_cache, v_cache] = layouts.map(|layout| elements(&layout));
        Self {
            layouts,
            k_new: noise(k_new, seed),
            v_new: noise(v_new, seed + 1),
            k_memory: noise(k_cache + 2 * GUARD, seed + 2),
            v_memory: noise(v_cache + 2 * GUARD, seed + 3),
        }
    }

    fn descriptor(&self) -> Descriptor {
        let [k_new, v_new, k_cache, v_cache] = self.layouts;
        Descriptor::new(k_new, v_new, k_cache, v_cache).lengths(Lengths::PerSample)
    }

    fn run(&mut self, plan: &Plan<T, i64>, offsets: Offsets<'_, i64>) -> kvappend::Result<()> {
        let [k_new, v_new, k_cache, v_cache] = self.layouts;
        let (k_end, v_end) = (self.k_memory.len() - GUARD, self.v_memory.len() - GUARD);
        plan.run(Append {
            k_new: Tensor::new(&self.k_new, k_new),
            v_new: Tensor::new(&self.v_new, v_new),
            caches: Caches::Apart(
                TensorMut::new(&mut self.k_memory[GUARD..k_end], k_cache),
                TensorMut::new(&mut self.v_memory[GUARD..v_end], v_cache),
            ),
            offsets,
            lengths: &LENGTHS,
            ..Append::default()
        })
    }

    /// The memory of both caches after an append by the header's words.
    fn expected(&self, offsets: &[i64; BATCH]) -> [Vec<u64>; 2] {
        let [k_new, v_new, k_cache, v_cache] = &self.layouts;
        let append = |new: &[T], from: &Layout, memory: &[T], to: &Layout| {
            let mut memory = bits(memory);
            for (b, (offset, length)) in offsets.iter().zip(LENGTHS).enumerate() {
                for l in 0..length as usize {
                    let position = offset + l as i64;
                    if !(0..CACHE_ROWS as i64).contains(&position) {
                        continue;
                    }
                    for h in 0..HEADS {
                        for i in 0..from.shape()[3] {
                            memory[GUARD + row(to, b, h, position as usize) + i] =
                                new[row(from, b, h, l) + i].to_bits();
                        }
                    }
                }
            }
            memory
        };
        [
            append(&self.k_new, k_new, &self.k_memory, k_cache),
            append(&self.v_new, v_new, &self.v_memory, v_cache),
        ]
    }

    fn actual(&self) -> [Vec<u64>; 2] {
        [bits(&self.k_memory), bits(&self.v_memory)]
    }
}

fn append_ragged_batch<T: FromBits>(element_type: i32) -> Result<(), Error> {
    let mut case = Case::<T>::new(1);
    let expected = case.expected(&OFFSETS);
    assert_ne!(expected, case.actual());
    let plan = case.descriptor().host()?;
    assert_eq!(plan.sku()?.element_type, element_type);
    case.run(&plan, Offsets::Read(&OFFSETS))?;
    assert_eq!(expected, case.actual());
    Ok(())
}

#[test]
fn a_ragged_batch_of_each_type() -> Result<(), Error> {
    append_ragged_batch::<f32>(sys::KVAPPEND_ELEMENT_F32)?;
    append_ragged_batch::<f64>(sys::KVAPPEND_ELEMENT_F64)?;
    append_ragged_batch::<F16>(sys::KVAPPEND_ELEMENT_F16)?;
    append_ragged_batch::<Bf16>(sys::KVAPPEND_ELEMENT_BF16)?;
    append_ragged_batch::<E4m3>(sys::KVAPPEND_ELEMENT_E4M3)?;
    append_ragged_batch::<E5m2>(sys::KVAPPEND_ELEMENT_E5M2)?;
    append_ragged_batch::<i8>(sys::KVAPPEND_ELEMENT_INT8)?;
    append_ragged_batch::<u8>(sys::KVAPPEND_ELEMENT_UINT8)
}

#[test]
fn threads_share_a_plan() -> Result<(), Error> {
    let plan: Plan<f32, i64> = Case::<f32>::new(0).descriptor().advance().host()?;
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let plan = &plan;
            scope.spawn(move || {
                for step in 0..500 {
                    let mut case = Case::new(thread * 1000 + step);
                    let mut offsets = OFFSETS;
                    let expected = case.expected(&offsets);
                    case.run(plan, Offsets::advance(&mut offsets)).expect("appended");
                    assert_eq!(expected, case.actual());
                    assert_eq!(offsets, [4, 7, 2, 1]);
                    // Messages are the thread's own.
                    case.k_new.truncate(thread as usize + 1);
                    let error = case.run(plan, Offsets::advance(&mut offsets)).expect_err("too small");
                    let bytes = size_of::<f32>() * (thread as usize + 1);
                    assert!(
                        error.message().starts_with(&format!("args.k_new_bytes is {bytes}:")),
                        "{error}"
                    );
                }
            });
        }
    });
    Ok(())
}

#[test]
fn an_error_says_what_was_expected_and_nothing_is_written() -> Result<(), Error> {
    let mut case = Case::<f64>::new(2);
    let plan = case.descriptor().host()?;
    case.v_memory.pop();
    let before = case.actual();
    let error = case.run(&plan, Offsets::Read(&OFFSETS)).expect_err("too small");
    assert_eq!(error.status(), Status(sys::KVAPPEND_ERROR_BUFFER_TOO_SMALL));
    assert_eq!(error.status().name(), "KVAPPEND_ERROR_BUFFER_TOO_SMALL");
    assert!(
        error
            .message()
            .contains("args.v_cache_bytes is 1144: expected at least 1152"),
        "{error}"
    );
    assert!(
        error.to_string().starts_with("KVAPPEND_ERROR_BUFFER_TOO_SMALL: args."),
        "{error}"
    );
    assert_eq!(before, case.actual());

    let error = case
        .descriptor()
        .kernel_name("no such")
        .host::<f64, i64, i32>()
        .expect_err("no such kernel");
    assert_eq!(error.status(), Status(sys::KVAPPEND_ERROR_KERNEL));
    assert!(error.message().contains("no such"), "{error}");
    assert_eq!(
        case.descriptor()
            .kernel_name(plan.kernel_name()?)
            .host::<f64, i64, i32>()?
            .kernel_name(),
        plan.kernel_name()
    );
    Ok(())
}

/// What C would take on trust.
#[test]
fn what_safe_code_must_not_do_is_refused() -> Result<(), Error> {
    let mut case = Case::<f32>::new(3);
    let before = case.actual();
    let refused = |result: kvappend::Result<()>, status, words: &str| {
        let error = result.expect_err(words);
        assert_eq!(error.status(), Status(status), "{error}");
        assert!(error.message().contains(words), "{error}");
    };
    let plan = case.descriptor().host()?;
    // Of no elements, which the library must not take for a size that is not known.
    let offsets = Offsets::Read(&[]);
    refused(
        case.run(&plan, offsets),
        sys::KVAPPEND_ERROR_NULL_BUFFER,
        "args.cache_offsets is NULL",
    );
    // Lent for reading, when they are to be written.
    let advancing = case.descriptor().advance().host()?;
    refused(
        case.run(&advancing, Offsets::Read(&OFFSETS)),
        sys::KVAPPEND_ERROR_CONFLICT,
        "expected Offsets::advance",
    );
    refused(
        case.run(&plan, Offsets::advance(&mut OFFSETS.clone())),
        sys::KVAPPEND_ERROR_CONFLICT,
        "Offsets::Read",
    );
    // Laid out in another way than the plan's.
    case.layouts.swap(0, 2);
    refused(
        case.run(&plan, Offsets::Read(&OFFSETS)),
        sys::KVAPPEND_ERROR_CONFLICT,
        "k_new is laid out as",
    );
    let mismatched = case.descriptor().host::<f32, i64, i32>().map(|_| ());
    refused(
        mismatched,
        sys::KVAPPEND_ERROR_CONFLICT,
        "v_new has the shape [4, 2, 3, 3]",
    );
    let huge = Layout::contiguous([usize::MAX; 4]);
    let overflow = Descriptor::new(huge, huge, huge, huge)
        .host::<f32, i64, i32>()
        .map(|_| ());
    refused(overflow, sys::KVAPPEND_ERROR_OVERFLOW, "expected at most 63 bits");
    assert_eq!(before, case.actual());
    Ok(())
}

/// K and V side by side in each row of one pool of pages, which tokens reach by slots.
struct Pool {
    k_new: Vec<F16>,
    v_new: Vec<F16>,
    memory: Vec<F16>,
    report: Report,
}

impl Pool {
    const TOKENS: usize = 4;
    const PAGES: usize = 3;
    const ROW: usize = K_DIM + V_DIM;
    const K_NEW: Layout = Layout::packed([Self::TOKENS, 1, K_DIM]);
    const V_NEW: Layout = Layout::packed([Self::TOKENS, 1, V_DIM]);
    const K_CACHE: Layout = Self::side_by_side(K_DIM);
    const V_CACHE: Layout = Self::side_by_side(V_DIM);

    const fn side_by_side(dim: usize) -> Layout {
        Layout::strided(
            [Self::PAGES, 1, CACHE_ROWS, dim],
            [CACHE_ROWS * Self::ROW, Self::ROW, Self::ROW],
        )
    }

    /// V begins `v_begin` elements into the pool.
    fn append<'a>(&'a mut self, v_begin: usize, slots: &'a [i32; Self::TOKENS]) -> Append<'a, F16, i32> {
        Append {
            k_new: Tensor::new(&self.k_new, Self::K_NEW),
            v_new: Tensor::new(&self.v_new, Self::V_NEW),
            caches: Caches::Pool {
                memory: &mut self.memory,
                k: (0, Self::K_CACHE),
                v: (v_begin, Self::V_CACHE),
            },
            slots,
            report: Some(&self.report),
            ..Append::default()
        }
    }
}

#[test]
fn one_pool_by_slots() -> Result<(), Error> {
    let mut pool = Pool {
        k_new: noise(Pool::TOKENS * K_DIM, 4),
        v_new: noise(Pool::TOKENS * V_DIM, 5),
        memory: noise(Pool::PAGES * CACHE_ROWS * Pool::ROW, 6),
        report: Report::default(),
    };
    let plan = Descriptor::new(Pool::K_NEW, Pool::V_NEW, Pool::K_CACHE, Pool::V_CACHE)
        .addressing(Addressing::Slots { reserved: Some(0) })
        .skip(Skip::Report {
            count_written: true,
            reset: true,
        })
        .host::<F16, i32, i32>()?;

    // The second token is padding, and the third has a slot of no page.
    let slots = [17, 0, 18, 5];
    let mut expected = pool.memory.clone();
    for token in [0, 3] {
        let row = &mut expected[slots[token] as usize * Pool::ROW..][..Pool::ROW];
        row[..K_DIM].copy_from_slice(&pool.k_new[token * K_DIM..][..K_DIM]);
        row[K_DIM..].copy_from_slice(&pool.v_new[token * V_DIM..][..V_DIM]);
    }
    plan.run(pool.append(K_DIM, &slots))?;
    assert_eq!(expected, pool.memory);
    let report = pool.report.get();
    assert_eq!([report.rows_written, report.rows_padding, report.rows_above], [2, 1, 1]);
    assert_eq!([report.first_row, report.first_position], [2, 18]);

    let error = plan
        .validate(pool.append(K_DIM, &slots))
        .expect_err("a slot of no page");
    assert_eq!(error.status(), Status(sys::KVAPPEND_ERROR_SKIPPED));
    plan.validate(pool.append(K_DIM, &[17, 0, 16, 5]))?;
    for (v_begin, status) in [
        (K_DIM - 1, sys::KVAPPEND_ERROR_OVERLAP),
        (K_DIM + 1, sys::KVAPPEND_ERROR_BUFFER_TOO_SMALL),
        (usize::MAX, sys::KVAPPEND_ERROR_NULL_BUFFER),
    ] {
        let error = plan
            .run(pool.append(v_begin, &slots))
            .expect_err("a place where V cannot be");
        assert_eq!(error.status(), Status(status), "{error}");
    }
    assert_eq!(expected, pool.memory);
    Ok(())
}

#[test]
fn a_plan_may_be_sent_and_shared() {
    fn sent_and_shared<T: Send + Sync>() {}
    sent_and_shared::<Plan<F16, i32>>();
}

/// A stream reaches the library, which has no use for it in host memory.
#[test]
fn a_stream_is_for_devices() -> Result<(), Error> {
    // Of no rows, so that no buffer is missing.
    let none = Layout::contiguous([0; 4]);
    let plan: Plan<f32, i64> = Descriptor::new(none, none, none, none).host()?;
    let stream = std::ptr::NonNull::dangling().as_ptr();
    // SAFETY: no buffer is needed, and the stream is refused.
    let error = unsafe { plan.run_raw(&RawBuffers::default(), stream) }.expect_err("a stream");
    assert_eq!(error.status(), Status(sys::KVAPPEND_ERROR_STREAM));
    Ok(())
}

/// With no device the creation says so; a plan for one refuses host memory.
#[test]
fn a_device_is_asked_for() {
    let case = Case::<f32>::new(7);
    let without = [
        sys::KVAPPEND_ERROR_UNSUPPORTED,
        sys::KVAPPEND_ERROR_NO_DEVICE,
        sys::KVAPPEND_ERROR_DRIVER,
    ];
    match case.descriptor().cuda::<f32, i64, i32>() {
        Err(error) => assert!(without.map(Status).contains(&error.status()), "{error}"),
        Ok(plan) => {
            let error = plan.run(Append::default()).expect_err("host memory");
            assert_eq!(error.status(), Status(sys::KVAPPEND_ERROR_BACKEND));
        }
    }
}
