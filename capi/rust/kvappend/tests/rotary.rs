// SPDX-License-Identifier: Apache-2.0
//! Rows of K that are rotated before they are stored, and rows of Q that are rotated in the same run.

use kvappend::{
    bytes, preset, sys, Addressing, Append, Caches, Descriptor, Error, Layout, Plan, Query, Rotary, Status, Tensor,
    TensorMut,
};

/// Two tokens in slots: one head of K, and two of Q.
const NEW: Layout = Layout::packed([2, 1, 4]);
const CACHE: Layout = Layout::contiguous([1, 1, 2, 4]);
const NONE: Layout = Layout::packed([2, 1, 0]);
const NO_CACHE: Layout = Layout::contiguous([1, 1, 2, 0]);
const Q: Layout = Layout::packed([2, 2, 4]);
const K_NEW: [f32; 8] = [1., 2., 3., 4., 5., 6., 7., 8.];
const Q_NEW: [f32; 16] = [1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15., 16.];
/// The second token is rotated by a quarter turn.
const Q_ROTATED: [f32; 16] = [
    1., 2., 3., 4., 5., 6., 7., 8., -11., -12., 9., 10., -15., -16., 13., 14.,
];
/// `[positions, cos | sin]`
const TABLE: [f32; 8] = [1., 1., 0., 0., 0., 0., 1., 1.];

fn rotary() -> Rotary {
    Rotary {
        dim: 4,
        table_rows: 2,
        table_stride: 4,
        q: Q,
        ..Rotary::default()
    }
}

fn plan(rotary: Rotary) -> Result<Plan<f32, i64>, Error> {
    Descriptor::new(NEW, NONE, CACHE, NO_CACHE)
        .addressing(Addressing::Slots { reserved: None })
        .rotary(rotary)
        .positions()
        .host()
}

fn run(plan: &Plan<f32, i64>, q: Query<'_, f32>, q_scales: &[f32]) -> Result<[f32; 8], Error> {
    let mut k_cache = [0.; 8];
    plan.run(Append {
        k_new: Tensor::new(&K_NEW, NEW),
        caches: Caches::Apart(TensorMut::new(&mut k_cache, CACHE), TensorMut::default()),
        slots: &[1, 0],
        positions: &[0, 1],
        rotary_cos: bytes(&TABLE),
        rotary_sin: bytes(&TABLE[2..]),
        q,
        q_scales: bytes(q_scales),
        ..Append::default()
    })?;
    Ok(k_cache)
}

#[test]
fn rows_of_k_and_of_q() -> Result<(), Error> {
    let expected = [-7., -8., 5., 6., 1., 2., 3., 4.];
    let by_halves = plan(rotary())?;
    let mut q = Q_NEW;
    assert_eq!(
        run(&by_halves, Query::InPlace(TensorMut::new(&mut q, Q)), &[])?,
        expected
    );
    assert_eq!(q, Q_ROTATED);
    let mut q_out = [0.; 16];
    let apart = Query::Apart(Tensor::new(&Q_NEW, Q), TensorMut::new(&mut q_out, Q));
    assert_eq!(run(&by_halves, apart, &[])?, expected);
    assert_eq!(q_out, Q_ROTATED);

    // Without Q, and with adjacent elements as pairs.
    let adjacent = plan(Rotary {
        style: sys::KVAPPEND_ROTARY_INTERLEAVED,
        q: Layout::default(),
        ..rotary()
    })?;
    assert_eq!(run(&adjacent, Query::None, &[])?, [-6., 5., -8., 7., 1., 2., 3., 4.]);
    Ok(())
}

/// The rotated rows of Q as `[H, T, D]`, with a scale for each head.
#[test]
fn rows_of_q_in_e4m3() -> Result<(), Error> {
    let heads_outside = Layout::contiguous([1, 2, 2, 4]);
    let mut storage = preset(sys::KVAPPEND_PRESET_E4M3_DIVIDE)?;
    storage.scale_strides[1] = 4;
    let plan = plan(Rotary {
        q_out: Some(heads_outside),
        q_storage: Some(storage),
        ..rotary()
    })?;
    let mut codes = [0xee; 16];
    let stored = Query::Stored(Tensor::new(&Q_NEW, Q), TensorMut::new(&mut codes, heads_outside));
    run(&plan, stored, &[2., 4.])?;
    let expected = [
        0x30, 0x38, 0x3c, 0x40, 0xcb, 0xcc, 0x49, 0x4a, // 0.5, 1, 1.5, 2; -5.5, -6, 4.5, 5
        0x3a, 0x3c, 0x3e, 0x40, 0xc7, 0xc8, 0x45, 0x46, // 1.25, 1.5, 1.75, 2; -3.75, -4, 3.25, 3.5
    ];
    assert_eq!(codes, expected);
    Ok(())
}

#[test]
fn queries_that_do_not_fit_are_refused() -> Result<(), Error> {
    let refused = |error: Option<Error>, status, words: &str| {
        let error = error.expect(words);
        assert_eq!(error.status(), Status(status), "{error}");
        assert!(error.message().contains(words), "{error}");
    };
    let create = |changed| plan(changed).err();
    let conflict = sys::KVAPPEND_ERROR_CONFLICT;
    let q = Layout::packed([3, 2, 4]);
    refused(
        create(Rotary { q, ..rotary() }),
        conflict,
        "q has the shape [1, 2, 3, 4]",
    );
    let q_out = Some(Layout::packed([2, 1, 4]));
    refused(
        create(Rotary { q_out, ..rotary() }),
        conflict,
        "q_out has the shape [1, 1, 2, 4]",
    );
    let q_first = 1;
    let status = sys::KVAPPEND_ERROR_ROTARY;
    refused(create(Rotary { q_first, ..rotary() }), status, "q_first is 1");

    let plan = plan(rotary())?;
    refused(run(&plan, Query::None, &[]).err(), conflict, "q is laid out as");
    let mut q = Q_NEW;
    let short = Query::InPlace(TensorMut::new(&mut q[1..], Q));
    refused(
        run(&plan, short, &[]).err(),
        sys::KVAPPEND_ERROR_BUFFER_TOO_SMALL,
        "q_out_bytes is 60",
    );
    assert_eq!(q, Q_NEW);
    Ok(())
}
