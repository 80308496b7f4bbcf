// SPDX-License-Identifier: Apache-2.0
//! Rows that are moved through the safe interface, with every byte compared.

use kvappend::{
    bytes, bytes_mut, move_layers, preset, sys, Addressing, Append, Caches, Descriptor, Error, Gather, Layout, Lengths,
    Move, MovedScales, Offsets, Plan, Report, Skip, Status, Storage, Tensor, TensorMut, F16,
};

/// Three blocks of four rows of two heads.
const K_CACHE: Layout = Layout::tokens_outside([3, 2, 4, 5]);
const V_CACHE: Layout = Layout::contiguous([3, 2, 4, 3]);
const ROWS: usize = 12;

/// Two samples: a chain from slot 0 on, and a swap of rows 5 and 9 by way of row 11. -1 is padding on either side.
const FROM: [i64; 8] = [0, 1, 2, -1, 5, 9, 11, 7];
const TO: [i64; 8] = [1, 2, 3, 4, 11, 5, 9, -1];
const SAMPLES: [i32; 3] = [0, 4, 8];

/// Other bits for each element.
fn elements(layout: Layout, seed: u16) -> Vec<F16> {
    let count = layout.shape().iter().product::<usize>() as u16;
    (0..count)
        .map(|i| F16(seed.wrapping_add(i.wrapping_mul(2521))))
        .collect()
}

/// The index of an element in a cache.
fn at(layout: Layout, slot: usize, head: usize, element: usize) -> usize {
    let [block, head_stride, row] = layout.strides();
    slot / 4 * block + head * head_stride + slot % 4 * row + element
}

/// The cache after the moves, one after the other.
fn moved(mut cache: Vec<F16>, layout: Layout, from: &[i64], to: &[i64]) -> Vec<F16> {
    for (&from, &to) in from.iter().zip(to) {
        let (Ok(from), Ok(to)) = (usize::try_from(from), usize::try_from(to)) else {
            continue;
        };
        for head in 0..2 {
            for element in 0..layout.shape()[3] {
                cache[at(layout, to, head, element)] = cache[at(layout, from, head, element)];
            }
        }
    }
    cache
}

fn descriptor(rows: usize) -> Descriptor {
    Descriptor::move_rows(rows, K_CACHE, V_CACHE)
}

struct Case {
    k: Vec<F16>,
    v: Vec<F16>,
}

impl Case {
    fn new(seed: u16) -> Self {
        Self {
            k: elements(K_CACHE, seed),
            v: elements(V_CACHE, seed + 1),
        }
    }

    fn caches(&mut self) -> Caches<'_, F16> {
        Caches::Apart(
            TensorMut::new(&mut self.k, K_CACHE),
            TensorMut::new(&mut self.v, V_CACHE),
        )
    }

    fn rows<'a>(&'a mut self, from_slots: &'a [i64], slots: &'a [i64], lengths: &'a [i32]) -> Move<'a, F16, i64> {
        Move {
            caches: self.caches(),
            from_slots,
            slots,
            lengths,
            ..Move::default()
        }
    }

    fn is_moved(&self, seed: u16, from: &[i64], to: &[i64]) -> bool {
        let before = Self::new(seed);
        self.k == moved(before.k, K_CACHE, from, to) && self.v == moved(before.v, V_CACHE, from, to)
    }
}

#[test]
fn a_chain_gives_its_first_row_everywhere() -> Result<(), Error> {
    let plan = descriptor(3).host()?;
    let mut case = Case::new(1);
    plan.validate_move(case.rows(&[0, 1, 2], &[1, 2, 3], &[]))?;
    assert!(case.is_moved(1, &[], &[]));
    plan.move_rows(case.rows(&[0, 1, 2], &[1, 2, 3], &[]))?;
    for slot in 1..4 {
        assert_eq!(case.k[at(K_CACHE, slot, 1, 4)], case.k[at(K_CACHE, 0, 1, 4)]);
    }
    assert!(case.is_moved(1, &[0, 0, 0], &[1, 2, 3]));
    assert_eq!(plan.sku()?.operation, sys::KVAPPEND_OPERATION_MOVE);
    assert_eq!(plan.sku()?.addressing, sys::KVAPPEND_ADDRESSING_SLOTS);
    Ok(())
}

#[test]
fn two_samples() -> Result<(), Error> {
    let plan = descriptor(8).lengths(Lengths::Packed { batch: 2 }).host()?;
    let mut case = Case::new(2);
    plan.validate_move(case.rows(&[0, 1, 2, -1, 5, 9, 11, -1], &TO, &SAMPLES))?;
    plan.move_rows(case.rows(&FROM, &TO, &SAMPLES))?;
    assert!(case.is_moved(2, &FROM, &TO));
    // Sample 1 writes what sample 0 reads.
    let shared = [1, 2, 3, 4, 11, 5, 9, 0];
    let error = plan
        .validate_move(case.rows(&FROM, &shared, &SAMPLES))
        .expect_err("a shared place");
    assert_eq!(error.status(), Status(sys::KVAPPEND_ERROR_DUPLICATE));
    Ok(())
}

#[test]
fn rows_without_a_place() -> Result<(), Error> {
    let descriptor = descriptor(5)
        .addressing(Addressing::Slots { reserved: Some(7) })
        .token_count()
        .skip(Skip::Report {
            count_written: true,
            reset: false,
        });
    let (mut case, report) = (Case::new(3), Report::default());
    descriptor.host()?.move_rows(Move {
        token_count: &[4],
        report: Some(&report),
        ..case.rows(&[0, 7, 12, 3, 1], &[5, 6, 8, -1, 2], &[])
    })?;
    assert!(case.is_moved(3, &[0], &[5]));
    let report = report.get();
    assert_eq!([report.rows_written, report.rows_padding, report.rows_above], [1, 3, 1]);
    assert_eq!([report.first_row, report.first_position], [2, 12]);
    Ok(())
}

#[test]
fn layers_as_one() -> Result<(), Error> {
    let plan = descriptor(8).lengths(Lengths::Packed { batch: 2 }).host()?;
    let mut cases: Vec<_> = (0..4).map(|layer| Case::new(100 * layer)).collect();
    move_layers(cases.iter_mut().map(|case| (&plan, case.rows(&FROM, &TO, &SAMPLES))))?;
    for (layer, case) in (0..).zip(&cases) {
        assert!(case.is_moved(100 * layer, &FROM, &TO));
    }
    let rows = [Layout::packed([8, 2, 5]), Layout::packed([8, 2, 3])];
    let append = Descriptor::new(rows[0], rows[1], K_CACHE, V_CACHE)
        .addressing(Addressing::Slots { reserved: None })
        .host()?;
    let plans = [&plan, &plan, &append, &plan];
    let mixed = plans
        .into_iter()
        .zip(cases.iter_mut().map(|case| case.rows(&FROM, &TO, &SAMPLES)));
    let error = move_layers(mixed).expect_err("an append");
    assert_eq!(error.status(), Status(sys::KVAPPEND_ERROR_OPERATION));
    assert!(error.message().starts_with("layer 2: the plan appends"), "{error}");
    assert!(cases[0].is_moved(0, &FROM, &TO));
    Ok(())
}

/// INT8 codes with the scale of the row after them, and E2M1 codes, two in a byte, with scales elsewhere.
#[test]
fn scales_of_rows_are_moved() -> Result<(), Error> {
    const POOL: Layout = Layout::strided([1, 1, 3, 4], [36, 0, 12]);
    let k_storage = Storage {
        scale_strides: [0, 0, 12, 0],
        ..preset(sys::KVAPPEND_PRESET_INT8_ROW)?
    };
    // 16 elements are 8 bytes, in groups of 16. The global scale is not used.
    const V: Layout = Layout::contiguous([1, 1, 3, 8]);
    let v_storage = Storage {
        scale_strides: [0, 0, 1, 0],
        ..preset(sys::KVAPPEND_PRESET_NVFP4)?
    };
    let plan = Descriptor::move_rows(2, POOL, V)
        .storage(k_storage, v_storage)
        .host::<f32, i32, i64>()?;
    // Four codes, a scale and four bytes of another owner in each row of K; then V.
    let mut memory: Vec<u8> = (0..60).collect();
    let mut v_scales = [70, 71, 72];
    plan.move_rows(Move {
        stored: Caches::Pool {
            memory: &mut memory,
            k: (0, POOL),
            v: (36, V),
        },
        k_scales: MovedScales::Inside(4),
        v_scales: MovedScales::Apart(&mut v_scales),
        from_slots: &[2, 0],
        slots: &[0, 1],
        ..Move::default()
    })?;
    let mut expected: Vec<u8> = (0..60).collect();
    expected.copy_within(24..32, 0);
    expected.copy_within(24..32, 12);
    expected.copy_within(52..60, 36);
    expected.copy_within(52..60, 44);
    assert_eq!(memory, expected);
    assert_eq!(v_scales, [72, 72, 72]);
    Ok(())
}

/// They are not given, or are left alone.
#[test]
fn a_scale_of_all_rows_stays() -> Result<(), Error> {
    const CACHE: Layout = Layout::contiguous([1, 1, 3, 2]);
    let e4m3 = preset(sys::KVAPPEND_PRESET_E4M3_DIVIDE)?;
    let plan = Descriptor::move_rows(1, CACHE, CACHE)
        .storage(e4m3, e4m3)
        .host::<f32, i64, i32>()?;
    let (mut k, mut v, mut scale) = ([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], [2_f32]);
    plan.move_rows(Move {
        stored: Caches::Apart(TensorMut::new(&mut k, CACHE), TensorMut::new(&mut v, CACHE)),
        v_scales: MovedScales::Apart(bytes_mut(&mut scale)),
        from_slots: &[2],
        slots: &[0],
        ..Move::default()
    })?;
    assert_eq!((k, v), ([5, 6, 3, 4, 5, 6], [11, 12, 9, 10, 11, 12]));
    assert_eq!(bytes(&scale), bytes(&[2_f32]));
    Ok(())
}

#[test]
fn plans_of_other_operations_are_refused() -> Result<(), Error> {
    let refused = |result: kvappend::Result<()>, words: &str| {
        let error = result.expect_err(words);
        assert_eq!(error.status(), Status(sys::KVAPPEND_ERROR_OPERATION), "{error}");
        assert!(error.message().contains(words), "{error}");
    };
    let (k_rows, v_rows) = (Layout::packed([3, 2, 5]), Layout::packed([3, 2, 3]));
    let descriptor_of_rows =
        Descriptor::new(k_rows, v_rows, K_CACHE, V_CACHE).addressing(Addressing::Slots { reserved: None });
    let append: Plan<F16, i64> = descriptor_of_rows.host()?;
    let gather: Plan<F16, i64> = descriptor_of_rows.gather().host()?;
    let plan: Plan<F16, i64> = descriptor(3).host()?;
    let mut case = Case::new(1);
    // Plans that would write with what is lent for something else.
    let (from, to) = ([0, 1, 2], [1, 2, 3]);
    refused(append.move_rows(case.rows(&from, &to, &[])), "the plan appends");
    refused(append.validate_move(case.rows(&from, &to, &[])), "the plan appends");
    refused(gather.move_rows(case.rows(&from, &to, &[])), "the plan gathers");
    let (k_new, v_new) = (elements(k_rows, 5), elements(v_rows, 6));
    let moves = plan.run(Append {
        k_new: Tensor::new(&k_new, k_rows),
        v_new: Tensor::new(&v_new, v_rows),
        caches: case.caches(),
        offsets: Offsets::None,
        slots: &to,
        ..Append::default()
    });
    refused(moves, "the plan moves: expected a Move");
    refused(plan.gather(Gather::default()), "the plan moves: expected a Move");
    assert!(case.is_moved(1, &[], &[]));
    Ok(())
}

#[test]
fn what_safe_code_must_not_do_is_refused() -> Result<(), Error> {
    let refused = |result: kvappend::Result<()>, status, words: &str| {
        let error = result.expect_err(words);
        assert_eq!(error.status(), Status(status), "{error}");
        assert!(error.message().contains(words), "{error}");
    };
    let plan: Plan<F16, i64> = descriptor(3).host()?;
    let mut case = Case::new(1);
    let (from, to) = ([0, 1, 2], [1, 2, 3]);
    let too_small = sys::KVAPPEND_ERROR_BUFFER_TOO_SMALL;
    refused(
        plan.move_rows(case.rows(&from[1..], &to, &[])),
        too_small,
        "args.from_slots_bytes",
    );
    refused(
        plan.move_rows(case.rows(&from, &to[1..], &[])),
        too_small,
        "args.slots_bytes",
    );
    refused(
        plan.move_rows(case.rows(&[], &to, &[])),
        sys::KVAPPEND_ERROR_NULL_BUFFER,
        "args.from_slots",
    );
    let mut other = elements(K_CACHE, 2);
    let exchanged = Move {
        caches: Caches::Apart(
            TensorMut::new(&mut case.v, V_CACHE),
            TensorMut::new(&mut other, K_CACHE),
        ),
        from_slots: &from,
        slots: &to,
        ..Move::default()
    };
    refused(
        plan.move_rows(exchanged),
        sys::KVAPPEND_ERROR_CONFLICT,
        "k_cache is laid out as",
    );
    case.v.pop();
    refused(
        plan.move_rows(case.rows(&from, &to, &[])),
        too_small,
        "args.v_cache_bytes",
    );
    case.v.push(elements(V_CACHE, 2)[ROWS * 6 - 1]);
    assert!(case.is_moved(1, &[], &[]));

    let created = |descriptor: Descriptor| descriptor.host::<F16, i64, i32>().map(|_| ());
    let conflict = sys::KVAPPEND_ERROR_CONFLICT;
    let dense = descriptor(3).addressing(Addressing::Dense);
    refused(created(dense), conflict, "expected KVAPPEND_ADDRESSING_SLOTS");
    refused(created(descriptor(3).advance()), conflict, "KVAPPEND_FLAG_ADVANCE");
    refused(
        created(descriptor(3).zero_skipped()),
        conflict,
        "KVAPPEND_FLAG_ZERO_SKIPPED",
    );
    Ok(())
}
