// SPDX-License-Identifier: Apache-2.0
//! Rows of f32 in caches of other types, with every byte of the caches and of their scales compared.

use kvappend::{
    bytes, bytes_mut, preset, sys, Append, Caches, Descriptor, Error, Layout, Offsets, Plan, Scales, Status, Storage,
    Tensor, TensorMut,
};

/// The new row of sample 0 goes to row 1 of its cache, that of sample 1 to row 0.
const OFFSETS: Offsets<'_, i64> = Offsets::Read(&[1, 0]);
const NONE: Layout = Layout::contiguous([2, 1, 1, 0]);
const NO_CACHE: Layout = Layout::contiguous([2, 1, 2, 0]);

const fn new(dim: usize) -> Layout {
    Layout::contiguous([2, 1, 1, dim])
}

/// Two rows for each of two samples.
const fn cache(row_bytes: usize) -> Layout {
    Layout::contiguous([2, 1, 2, row_bytes])
}

fn strided(storage: i32, scale_strides: [i64; 4]) -> Result<Storage, Error> {
    Ok(Storage {
        scale_strides,
        ..preset(storage)?
    })
}

#[test]
fn e4m3_with_given_scales() -> Result<(), Error> {
    let k_new = [2., -3., 896., 0.5, 1000., 0., -0., 2.125];
    let v_new = [4., -6., 2., 1.];
    let (mut k_cache, mut v_cache) = ([0xee; 16], [0xee; 8]);
    let k_storage = preset(sys::KVAPPEND_PRESET_E4M3_DIVIDE)?;
    let v_storage = strided(sys::KVAPPEND_PRESET_E4M3_DIVIDE, [4, 0, 0, 0])?; // a scale for each sample
    let plan: Plan<f32, i64> = Descriptor::new(new(4), new(2), cache(4), cache(2))
        .storage(k_storage, v_storage)
        .host()?;
    plan.run(Append {
        k_new: Tensor::new(&k_new, new(4)),
        v_new: Tensor::new(&v_new, new(2)),
        stored: Caches::Apart(
            TensorMut::new(&mut k_cache, cache(4)),
            TensorMut::new(&mut v_cache, cache(2)),
        ),
        k_scales: Scales::Given(bytes(&[2_f32])),
        v_scales: Scales::Given(bytes(&[4_f32, 2.])),
        offsets: OFFSETS,
        ..Append::default()
    })?;
    let k_expected = [
        0xee, 0xee, 0xee, 0xee, 0x38, 0xbc, 0x7e, 0x28, // 1, -1.5, 448, 0.25
        0x7e, 0x00, 0x80, 0x38, 0xee, 0xee, 0xee, 0xee, // 500, 0, -0, 1.0625
    ];
    assert_eq!(k_cache, k_expected);
    assert_eq!(v_cache, [0xee, 0xee, 0x38, 0xbc, 0x38, 0x30, 0xee, 0xee]); // 1, -1.5; 1, 0.5

    let guarantee = plan.precision_guarantee()?;
    assert_eq!([guarantee.k_bit_exact, guarantee.same_on_all_backends], [0, 1]);
    assert_eq!(guarantee.v_error, 0.0625);
    Ok(())
}

/// Rows of four codes, the scale of the row, and the two elements of V with all their bits.
#[test]
fn int8_with_scales_and_v_in_the_same_pool() -> Result<(), Error> {
    let k_new = [127., -63.5, 1., 0.5, 254., 1., -3., 5.];
    let v_new = [1., 0.5, 2., -1.];
    let mut pool = [0xee; 4 * 16];
    let part = |row_bytes| Layout::strided([2, 1, 2, row_bytes], [32, 0, 16]);
    let k_storage = strided(sys::KVAPPEND_PRESET_INT8_ROW, [32, 0, 16, 0])?;
    let v_storage = Storage {
        r#type: sys::KVAPPEND_STORED_F32,
        ..Storage::default()
    };
    let plan: Plan<f32, i64> = Descriptor::new(new(4), new(2), part(4), part(8))
        .storage(k_storage, v_storage)
        .host()?;
    // In memory of floats, so that the scales are aligned.
    let mut memory = [0_f32; 16];
    bytes_mut(&mut memory).copy_from_slice(&pool);
    plan.run(Append {
        k_new: Tensor::new(&k_new, new(4)),
        v_new: Tensor::new(&v_new, new(2)),
        stored: Caches::Pool {
            memory: bytes_mut(&mut memory),
            k: (0, part(4)),
            v: (8, part(8)),
        },
        k_scales: Scales::Inside(4),
        offsets: OFFSETS,
        ..Append::default()
    })?;
    pool[16..32].copy_from_slice(&[0x7f, 0xc0, 1, 1, 0, 0, 0x80, 0x3f, 0, 0, 0x80, 0x3f, 0, 0, 0, 0x3f]);
    pool[32..48].copy_from_slice(&[0x7f, 1, 0xfe, 3, 0, 0, 0, 0x40, 0, 0, 0, 0x40, 0, 0, 0x80, 0xbf]);
    assert_eq!(bytes(&memory), pool);
    Ok(())
}

#[test]
fn nvfp4_with_a_global_scale() -> Result<(), Error> {
    let mut k_new = [0.; 32];
    // By 4 * 0.5 and by 2 * 0.5.
    k_new[..16].copy_from_slice(&[0., 1., 2., 3., 4., 6., 8., 12., -1., -2., -3., -4., -6., -8., -12., 0.5]);
    k_new[16..24].copy_from_slice(&[6., 5., -0.25, 2.5, 1.75, -3.5, 0.75, f32::NAN]);
    let (mut k_cache, mut k_scales) = ([0xee; 32], [0xee; 4]);
    let storage = strided(sys::KVAPPEND_PRESET_NVFP4, [2, 0, 1, 0])?;
    let plan: Plan<f32, i64> = Descriptor::new(new(16), NONE, cache(8), NO_CACHE)
        .storage(storage, storage)
        .host()?;
    plan.run(Append {
        k_new: Tensor::new(&k_new, new(16)),
        stored: Caches::Apart(TensorMut::new(&mut k_cache, cache(8)), TensorMut::default()),
        k_scales: Scales::Computed(&mut k_scales),
        k_global_scale: &[0.5],
        offsets: OFFSETS,
        ..Append::default()
    })?;
    let mut expected = [0xee; 32];
    expected[8..16].copy_from_slice(&[0x10, 0x32, 0x54, 0x76, 0xa9, 0xcb, 0xed, 0x0f]);
    expected[16..24].copy_from_slice(&[0x67, 0x48, 0xe4, 0x02, 0, 0, 0, 0]);
    assert_eq!(k_cache, expected);
    assert_eq!(k_scales, [0xee, 0x48, 0x40, 0xee]); // 4 and 2
    Ok(())
}

/// Pieces of 4 bytes, which hold 8 codes: `[N, H, D / 8, R, 4]` in bytes.
#[test]
fn pieces_are_laid_out_in_bytes() -> Result<(), Error> {
    let k_new = [
        0., 1., 2., 3., 4., 6., 8., 12., 12., 8., 6., 4., 3., 2., 1., 0., // of sample 0
        0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0., 0.,
    ];
    let pieces = Layout::in_pieces([2, 1, 2, 8], 4);
    let storage = Storage {
        r#type: sys::KVAPPEND_STORED_E2M1,
        scaling: sys::KVAPPEND_SCALING_GIVEN,
        ..Storage::default()
    };
    let plan: Plan<f32, i64> = Descriptor::new(new(16), NONE, pieces, NO_CACHE)
        .storage(storage, storage)
        .host()?;
    let mut k_cache = [0xee; 32];
    plan.run(Append {
        k_new: Tensor::new(&k_new, new(16)),
        stored: Caches::Apart(TensorMut::new(&mut k_cache, pieces), TensorMut::default()),
        k_scales: Scales::Given(bytes(&[2_f32])),
        offsets: OFFSETS,
        ..Append::default()
    })?;
    let mut expected = [0xee; 32];
    expected[4..8].copy_from_slice(&[0x10, 0x32, 0x54, 0x76]);
    expected[12..16].copy_from_slice(&[0x67, 0x45, 0x23, 0x01]);
    expected[16..20].fill(0);
    expected[24..28].fill(0);
    assert_eq!(k_cache, expected);
    Ok(())
}

#[test]
fn what_safe_code_must_not_do_is_refused() -> Result<(), Error> {
    let refused = |result: kvappend::Result<()>, status, words: &str| {
        let error = result.expect_err(words);
        assert_eq!(error.status(), Status(status), "{error}");
        assert!(error.message().contains(words), "{error}");
    };
    let descriptor = Descriptor::new(new(4), NONE, cache(4), NO_CACHE);
    let create = |storage| descriptor.clone().storage(storage, storage).host::<f32, i64, i32>();
    let storage = strided(sys::KVAPPEND_PRESET_INT8_ROW, [8, 0, 4, 0])?;
    // A struct that claims to be larger than it is.
    let plan = create(Storage {
        struct_size: 4096,
        ..storage
    })?;
    let (mut k_cache, k_scales) = ([1_f32; 4], [0_f32; 4]);
    let mut run = |k_scales, stored| {
        let k_cache = TensorMut::new(bytes_mut(&mut k_cache), stored);
        plan.run(Append {
            k_new: Tensor::new(&[1.; 8], new(4)),
            stored: Caches::Apart(k_cache, TensorMut::default()),
            k_scales,
            offsets: OFFSETS,
            ..Append::default()
        })
    };
    let lent = run(Scales::Given(bytes(&k_scales)), cache(4));
    refused(lent, sys::KVAPPEND_ERROR_CONFLICT, "the plan computes k_scales");
    let missing = run(Scales::None, cache(4));
    refused(missing, sys::KVAPPEND_ERROR_NULL_BUFFER, "args.k_scales is NULL");
    let inside = run(Scales::Inside(12), cache(4));
    refused(inside, sys::KVAPPEND_ERROR_BUFFER_TOO_SMALL, "args.k_scales_bytes is 4");
    let other = run(Scales::None, cache(3));
    refused(other, sys::KVAPPEND_ERROR_CONFLICT, "k_cache is laid out as");
    assert_eq!(k_cache, [1.; 4]);

    let status = sys::KVAPPEND_ERROR_STORAGE;
    refused(create(Storage::default()).map(|_| ()), status, "the type 0");
    refused(preset(99).map(|_| ()), status, "preset is 99");
    let int4 = create(Storage {
        r#type: sys::KVAPPEND_STORED_INT4,
        ..storage
    });
    let words = "k_cache has the shape [2, 1, 2, 4]: expected [None, Some(1), None, Some(2)]";
    refused(int4.map(|_| ()), sys::KVAPPEND_ERROR_CONFLICT, words);
    Ok(())
}
