// SPDX-License-Identifier: Apache-2.0
//! Rows that are appended and gathered again through the safe interface, with every byte compared.

use kvappend::{
    bytes, bytes_mut, gather_layers, preset, run_layers, sys, Addressing, Append, Caches, Descriptor, Error, Gather,
    Layout, Lengths, Offsets, Plan, Report, Scales, Skip, Status, Storage, Tensor, TensorMut, F16,
};

/// Two samples of two heads: three new rows for each, in caches of six rows.
const K_ROWS: Layout = Layout::contiguous([2, 2, 3, 5]);
const V_ROWS: Layout = Layout::tokens_outside([2, 2, 3, 4]);
const K_CACHE: Layout = Layout::tokens_outside([2, 2, 6, 5]);
const V_CACHE: Layout = Layout::contiguous([2, 2, 6, 4]);

/// Other bits for each element.
fn rows(layout: Layout, seed: u16) -> Vec<F16> {
    let count = layout.shape().iter().product::<usize>() as u16;
    (0..count)
        .map(|i| F16(seed.wrapping_add(i.wrapping_mul(2521))))
        .collect()
}

fn descriptor() -> Descriptor {
    Descriptor::new(K_ROWS, V_ROWS, K_CACHE, V_CACHE)
}

struct Case {
    k_new: Vec<F16>,
    v_new: Vec<F16>,
    k_cache: Vec<F16>,
    v_cache: Vec<F16>,
    k_out: Vec<F16>,
    v_out: Vec<F16>,
}

impl Case {
    fn new(seed: u16) -> Self {
        Self {
            k_new: rows(K_ROWS, seed),
            v_new: rows(V_ROWS, seed + 1),
            k_cache: rows(K_CACHE, seed + 2),
            v_cache: rows(V_CACHE, seed + 3),
            k_out: rows(K_ROWS, seed + 4),
            v_out: rows(V_ROWS, seed + 5),
        }
    }

    fn append<'a>(&'a mut self, offsets: &'a [i64]) -> Append<'a, F16, i64> {
        Append {
            k_new: Tensor::new(&self.k_new, K_ROWS),
            v_new: Tensor::new(&self.v_new, V_ROWS),
            caches: Caches::Apart(
                TensorMut::new(&mut self.k_cache, K_CACHE),
                TensorMut::new(&mut self.v_cache, V_CACHE),
            ),
            offsets: Offsets::Read(offsets),
            ..Append::default()
        }
    }

    fn gather<'a>(&'a mut self, offsets: &'a [i64]) -> Gather<'a, F16, i64> {
        Gather {
            k_cache: Tensor::new(&self.k_cache, K_CACHE),
            v_cache: Tensor::new(&self.v_cache, V_CACHE),
            k_out: TensorMut::new(&mut self.k_out, K_ROWS),
            v_out: TensorMut::new(&mut self.v_out, V_ROWS),
            offsets,
            ..Gather::default()
        }
    }
}

#[test]
fn the_rows_that_were_appended() -> Result<(), Error> {
    let mut case = Case::new(1);
    let append = descriptor().host()?;
    let gather = descriptor().gather().host()?;
    append.run(case.append(&[3, 0]))?;
    let caches = (case.k_cache.clone(), case.v_cache.clone());
    gather.validate_gather(case.gather(&[3, 0]))?;
    assert_ne!(case.k_out, case.k_new);
    gather.gather(case.gather(&[3, 0]))?;
    assert_eq!(case.k_out, case.k_new);
    assert_eq!(case.v_out, case.v_new);
    assert_eq!((case.k_cache, case.v_cache), caches);

    let (append, gather) = (append.sku()?, gather.sku()?);
    assert_eq!(append.operation, sys::KVAPPEND_OPERATION_APPEND);
    assert_eq!(gather.operation, sys::KVAPPEND_OPERATION_GATHER);
    assert_eq!(gather.addressing, sys::KVAPPEND_ADDRESSING_DENSE);
    Ok(())
}

#[test]
fn layers_as_one() -> Result<(), Error> {
    let append = descriptor().host()?;
    let gather = descriptor().gather().host()?;
    let mut cases: Vec<_> = (0..4).map(|layer| Case::new(100 * layer)).collect();
    run_layers(cases.iter_mut().map(|case| (&append, case.append(&[1, 2]))))?;
    gather_layers(cases.iter_mut().map(|case| (&gather, case.gather(&[1, 2]))))?;
    for case in &cases {
        assert_eq!((&case.k_out, &case.v_out), (&case.k_new, &case.v_new));
    }
    let plans = [&gather, &gather, &append, &gather];
    let mixed = plans.into_iter().zip(cases.iter_mut().map(|case| case.gather(&[0, 0])));
    let error = gather_layers(mixed).expect_err("an append");
    assert_eq!(error.status(), Status(sys::KVAPPEND_ERROR_OPERATION));
    assert!(error.message().starts_with("layer 2: the plan appends"), "{error}");
    Ok(())
}

/// Tokens of one byte in pages, where the second and the fourth token have no place.
#[test]
fn rows_without_a_place() -> Result<(), Error> {
    const TOKENS: Layout = Layout::packed([4, 1, 1]);
    const PAGES: Layout = Layout::contiguous([3, 1, 4, 1]);
    let none = [Layout::packed([4, 1, 0]), Layout::contiguous([3, 1, 4, 0])];
    let descriptor = Descriptor::new(TOKENS, none[0], PAGES, none[1])
        .addressing(Addressing::Paged {
            table_entries: 2,
            table_stride: 0,
            reserved: None,
        })
        .lengths(Lengths::PerToken { batch: 2 })
        .skip(Skip::Report {
            count_written: true,
            reset: false,
        })
        .gather();
    let cache: Vec<u8> = (10..22).collect();
    for (descriptor, rest) in [(descriptor.clone(), 7), (descriptor.zero_skipped(), 0)] {
        let (mut k_out, report) = ([7; 4], Report::default());
        descriptor.host::<u8, i32, i64>()?.gather(Gather {
            k_cache: Tensor::new(&cache, PAGES),
            k_out: TensorMut::new(&mut k_out, TOKENS),
            token_samples: &[1, -1, 0, 0],
            token_positions: &[5, 0, 2, 8],
            page_table: &[2, 0, 1, 0],
            report: Some(&report),
            ..Gather::default()
        })?;
        assert_eq!(k_out, [11, rest, 20, rest]);
        let report = report.get();
        assert_eq!([report.rows_written, report.rows_padding, report.rows_above], [2, 1, 1]);
    }
    Ok(())
}

/// Each element is a code times its scale.
#[test]
fn rows_of_caches_with_storages() -> Result<(), Error> {
    const ROWS: Layout = Layout::contiguous([2, 1, 1, 4]);
    // INT8 codes followed by the scale of the row, and E4M3 codes with a given scale, in one pool.
    const POOL: Layout = Layout::strided([2, 1, 2, 4], [24, 0, 12]);
    let k_storage = Storage {
        scale_strides: [24, 0, 12, 0],
        ..preset(sys::KVAPPEND_PRESET_INT8_ROW)?
    };
    let v_storage = preset(sys::KVAPPEND_PRESET_E4M3_DIVIDE)?;
    let descriptor = Descriptor::new(ROWS, ROWS, POOL, POOL).storage(k_storage, v_storage);
    let mut memory = [0_f32; 12];
    let v_scales = [2_f32];
    descriptor.host::<f32, i64, i32>()?.run(Append {
        k_new: Tensor::new(&[127., -63.5, 1., 0.5, 254., 1., -3., 5.], ROWS),
        v_new: Tensor::new(&[2., -3., 896., 0.5, 1000., 0., -0., 2.125], ROWS),
        stored: Caches::Pool {
            memory: bytes_mut(&mut memory),
            k: (0, POOL),
            v: (8, POOL),
        },
        k_scales: Scales::Inside(4),
        v_scales: Scales::Given(bytes(&v_scales)),
        offsets: Offsets::Read(&[1, 0]),
        ..Append::default()
    })?;
    let (mut k_out, mut v_out) = ([7_f32; 8], [7_f32; 8]);
    let pool = bytes(&memory);
    descriptor.gather().host::<f32, i64, i32>()?.gather(Gather {
        k_stored: Tensor::new(pool, POOL),
        v_stored: Tensor::new(&pool[8..], POOL),
        k_scales: &pool[4..],
        v_scales: bytes(&v_scales),
        k_out: TensorMut::new(&mut k_out, ROWS),
        v_out: TensorMut::new(&mut v_out, ROWS),
        offsets: &[1, 0],
        ..Gather::default()
    })?;
    // 127, -64, 1, 1 by 1, and 127, 1, -2, 3 by 2; 1, -1.5, 448, 0.25 and 448, 0, -0, 1 by 2.
    assert_eq!(bytes(&k_out), bytes(&[127_f32, -64., 1., 1., 254., 2., -4., 6.]));
    assert_eq!(bytes(&v_out), bytes(&[2_f32, -3., 896., 0.5, 896., 0., -0., 2.]));
    Ok(())
}

#[test]
fn what_safe_code_must_not_do_is_refused() -> Result<(), Error> {
    let refused = |result: kvappend::Result<()>, status, words: &str| {
        let error = result.expect_err(words);
        assert_eq!(error.status(), Status(status), "{error}");
        assert!(error.message().contains(words), "{error}");
    };
    let mut case = Case::new(1);
    let append: Plan<F16, i64> = descriptor().host()?;
    let gather: Plan<F16, i64> = descriptor().gather().host()?;
    // A plan that would write what is lent for reading.
    let status = sys::KVAPPEND_ERROR_OPERATION;
    refused(append.gather(case.gather(&[0, 0])), status, "the plan appends");
    refused(append.validate_gather(case.gather(&[0, 0])), status, "the plan appends");
    refused(gather.run(case.append(&[0, 0])), status, "the plan gathers");

    let mut memory = rows(K_ROWS, 0);
    let other = Gather {
        k_out: TensorMut::new(&mut memory, V_ROWS),
        ..case.gather(&[0, 0])
    };
    refused(
        gather.gather(other),
        sys::KVAPPEND_ERROR_CONFLICT,
        "k_out is laid out as",
    );
    refused(
        gather.gather(case.gather(&[])),
        sys::KVAPPEND_ERROR_NULL_BUFFER,
        "args.cache_offsets",
    );
    case.v_out.pop();
    refused(
        gather.gather(case.gather(&[0, 0])),
        sys::KVAPPEND_ERROR_BUFFER_TOO_SMALL,
        "args.v_out_bytes",
    );

    let created = |descriptor: Descriptor| descriptor.host::<F16, i64, i32>().map(|_| ());
    let conflict = sys::KVAPPEND_ERROR_CONFLICT;
    refused(
        created(descriptor().gather().advance()),
        conflict,
        "KVAPPEND_FLAG_ADVANCE",
    );
    refused(
        created(descriptor().zero_skipped()),
        conflict,
        "KVAPPEND_FLAG_ZERO_SKIPPED",
    );
    Ok(())
}
