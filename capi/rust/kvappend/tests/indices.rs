// SPDX-License-Identifier: Apache-2.0
//! The forms of index that runtimes hold, in caches of one byte a row, so that each is written out.

use kvappend::{
    run_layers, sys, Addressing, Append, Caches, Descriptor, Error, Index, Layout, Lengths, Offset, Offsets, Plan,
    Report, Skip, Status, Tensor, TensorMut,
};

/// `blocks` blocks of `rows` rows of one byte.
const fn layout(blocks: usize, rows: usize) -> Layout {
    Layout::contiguous([blocks, 1, rows, 1])
}

/// Appends `new` to K caches of blocks of four rows. There is no V.
fn descriptor(new: Layout, blocks: usize) -> Descriptor {
    let cache = layout(blocks, 4);
    let none = |like: Layout| {
        let [blocks, heads, rows, _] = like.shape();
        Layout::contiguous([blocks, heads, rows, 0])
    };
    Descriptor::new(new, none(new), cache, none(cache))
}

fn append<'a, O, I>(new: &'a [u8], rows: Layout, cache: &'a mut [u8]) -> Append<'a, u8, O, I> {
    let blocks = cache.len() / 4;
    Append {
        k_new: Tensor::new(new, rows),
        caches: Caches::Apart(TensorMut::new(cache, layout(blocks, 4)), TensorMut::default()),
        ..Append::default()
    }
}

fn tokens_with_positions<O: Offset + From<i8>, I: Index + From<i8>>() -> Result<(), Error> {
    const TOKENS: Layout = Layout::packed([6, 1, 1]);
    let plan: Plan<u8, O, I> = descriptor(TOKENS, 3)
        .addressing(Addressing::Paged {
            table_entries: 2,
            table_stride: 0,
            reserved: Some(0),
        })
        .lengths(Lengths::PerToken { batch: 2 })
        .token_count()
        .skip(Skip::Report {
            count_written: true,
            reset: false,
        })
        .host()?;
    // A token of no sample, one on the reserved page, one beyond its table, and one after the count.
    let samples = [1, 0, -1, 1, 0, 0].map(I::from);
    let positions = [5, 2, 0, 0, 8, 3].map(O::from);
    let mut cache = [0; 12];
    let report = Report::default();
    plan.run(Append {
        token_samples: &samples,
        token_positions: &positions,
        token_count: &[I::from(5)],
        page_table: &[2, 0, 0, 1].map(I::from),
        report: Some(&report),
        ..append(&[1, 2, 3, 4, 5, 6], TOKENS, &mut cache)
    })?;
    assert_eq!(cache, [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 0]);
    let counts = report.get();
    assert_eq!([counts.rows_written, counts.rows_padding, counts.rows_above], [2, 3, 1]);
    assert_eq!(
        [counts.first_sample, counts.first_row, counts.first_position],
        [0, 4, 8]
    );
    Ok(())
}

#[test]
fn tokens_with_positions_by_indices_of_each_type() -> Result<(), Error> {
    tokens_with_positions::<i64, i32>()?;
    tokens_with_positions::<i64, i64>()?;
    tokens_with_positions::<i32, i32>()?;
    tokens_with_positions::<i32, i64>()
}

#[test]
fn samples_share_an_offset() -> Result<(), Error> {
    let plan: Plan<u8, i64, i32> = descriptor(layout(2, 2), 2).shared_offset().advance().host()?;
    let mut cache = [0; 8];
    let mut offset = [1];
    plan.run(Append {
        offsets: Offsets::advance(&mut offset),
        ..append(&[1, 2, 3, 4], layout(2, 2), &mut cache)
    })?;
    assert_eq!(cache, [0, 1, 2, 0, 0, 3, 4, 0]);
    assert_eq!(offset, [3]);
    Ok(())
}

#[test]
fn offsets_from_the_end() -> Result<(), Error> {
    let plan: Plan<u8, i32, i64> = descriptor(layout(2, 2), 2)
        .lengths(Lengths::PerSample)
        .end_offsets()
        .host()?;
    let mut cache = [0; 8];
    plan.run(Append {
        offsets: Offsets::Read(&[4, 1]),
        lengths: &[2, 1],
        ..append(&[1, 2, 3, 4], layout(2, 2), &mut cache)
    })?;
    assert_eq!(cache, [0, 0, 1, 2, 3, 0, 0, 0]);
    Ok(())
}

#[test]
fn offsets_on_the_last_page() -> Result<(), Error> {
    let plan: Plan<u8, i32, i64> = descriptor(layout(2, 2), 3)
        .addressing(Addressing::PagedCsr {
            table_entries: 3,
            reserved: Some(1),
        })
        .last_page_lengths()
        .host()?;
    let mut cache = [0; 12];
    plan.run(Append {
        offsets: Offsets::Read(&[1, 3]),
        page_table: &[2, 0, 1],
        page_indptr: &[0, 2, 3],
        ..append(&[1, 2, 3, 4], layout(2, 2), &mut cache)
    })?;
    assert_eq!(cache, [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    Ok(())
}

#[test]
fn layers_advance_their_offsets_once() -> Result<(), Error> {
    let plan: Plan<u8, i64, i32> = descriptor(layout(1, 1), 1)
        .advance()
        .skip(Skip::Report {
            count_written: true,
            reset: true,
        })
        .host()?;
    let news = [[1], [2], [3]];
    let mut caches = [[0; 4]; 3];
    let mut offsets = [2];
    let report = Report::default();
    let shared = Offsets::advance(&mut offsets);
    run_layers(news.iter().zip(&mut caches).map(|(new, cache)| {
        let append = Append {
            offsets: shared,
            report: Some(&report),
            ..append(new, layout(1, 1), cache)
        };
        (&plan, append)
    }))?;
    assert_eq!(caches, [[0, 0, 1, 0], [0, 0, 2, 0], [0, 0, 3, 0]]);
    assert_eq!(offsets, [3]);
    assert_eq!(report.get().rows_written, 3);
    run_layers::<u8, i64, i32>([])
}

/// By the library, and by the wrapper's own checks: no layer is written.
#[test]
fn a_refused_layer_is_named() -> Result<(), Error> {
    let plan: Plan<u8, i64, i32> = descriptor(layout(1, 1), 1).host()?;
    for (wrong, status, words) in [
        (
            Offsets::None,
            sys::KVAPPEND_ERROR_NULL_BUFFER,
            "layer 1: args.cache_offsets is NULL",
        ),
        (
            Offsets::advance(&mut [0]),
            sys::KVAPPEND_ERROR_CONFLICT,
            "layer 1: the plan does not advance the offsets",
        ),
    ] {
        let (mut first, mut second) = ([0; 4], [0; 4]);
        let layer = |offsets, cache| Append {
            offsets,
            ..append(&[1], layout(1, 1), cache)
        };
        let layers = [
            (&plan, layer(Offsets::Read(&[0]), &mut first)),
            (&plan, layer(wrong, &mut second)),
        ];
        let error = run_layers(layers).expect_err(words);
        assert_eq!(error.status(), Status(status), "{error}");
        assert!(error.message().starts_with(words), "{error}");
        assert_eq!([first, second], [[0; 4]; 2]);
    }
    Ok(())
}

#[test]
fn validation_sees_indices_of_another_width() -> Result<(), Error> {
    let plan: Plan<u8, i64, i32> = descriptor(layout(2, 2), 2).lengths(Lengths::PerSample).host()?;
    let (mut cache, offsets) = ([0; 8], Offsets::Read(&[0, 0]));
    let error = plan
        .validate(Append {
            offsets,
            // What two numbers of 64 bits look like.
            lengths: &[2, 0, 1, 0],
            ..append(&[1, 2, 3, 4], layout(2, 2), &mut cache)
        })
        .expect_err("64 bits");
    assert_eq!(error.status(), Status(sys::KVAPPEND_ERROR_INDEX_WIDTH), "{error}");
    plan.validate(Append {
        offsets,
        lengths: &[2, 1],
        ..append(&[1, 2, 3, 4], layout(2, 2), &mut cache)
    })
}

#[test]
fn a_plan_names_its_device() -> Result<(), Error> {
    let sku = descriptor(layout(1, 1), 1).host::<u8, i64, i64>()?.sku()?;
    assert_eq!([sku.backend, sku.device], [sys::KVAPPEND_BACKEND_HOST, 0]);
    Ok(())
}
