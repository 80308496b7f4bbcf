// SPDX-License-Identifier: Apache-2.0
//! A cache of pages that stores rows as INT8, with a scale for each row. Rows are appended, gathered, and moved.
use kvappend::{
    bytes, bytes_mut, preset, sys, Addressing, Append, Caches, Descriptor, Gather, Layout, Move, MovedScales, Offsets,
    Plan, Scales, Storage, Tensor, TensorMut,
};

/// Two samples with three rows of K for each. There is no V: its rows have no elements.
const ROWS: Layout = Layout::contiguous([2, 1, 3, 8]);
const NO_ROWS: Layout = Layout::contiguous([2, 1, 3, 0]);
/// Four pages of four rows. With a storage, a cache is laid out in bytes.
const PAGES: Layout = Layout::contiguous([4, 1, 4, 8]);
const NO_PAGES: Layout = Layout::contiguous([4, 1, 4, 0]);
/// The pages of sample 0, and those of sample 1.
const PAGE_TABLE: [i32; 4] = [3, 1, 0, 2];
/// Sample 0 has two rows already.
const OFFSETS: [i64; 2] = [2, 0];

struct Cache {
    codes: [u8; 4 * 4 * 8],
    scales: [f32; 4 * 4],
}

impl Cache {
    fn gather(&self, plan: &Plan<f32, i64>) -> kvappend::Result<[f32; 48]> {
        let mut k_out = [0.; 48];
        plan.gather(Gather {
            k_stored: Tensor::new(&self.codes, PAGES),
            k_scales: bytes(&self.scales),
            k_out: TensorMut::new(&mut k_out, ROWS),
            page_table: &PAGE_TABLE,
            offsets: &OFFSETS,
            ..Gather::default()
        })?;
        Ok(k_out)
    }
}

fn main() -> kvappend::Result<()> {
    let storage = Storage {
        scale_strides: [4 * 4, 0, 4, 0], // in bytes, from page to page and from row to row
        ..preset(sys::KVAPPEND_PRESET_INT8_ROW)?
    };
    let append = Descriptor::new(ROWS, NO_ROWS, PAGES, NO_PAGES)
        .addressing(Addressing::Paged {
            table_entries: 2,
            table_stride: 0,
            reserved: None,
        })
        .storage(storage, storage);
    let gathers: Plan<f32, i64> = append.clone().gather().host()?;
    let appends: Plan<f32, i64> = append.host()?;
    let moves: Plan<f32, i64> = Descriptor::move_rows(1, PAGES, NO_PAGES)
        .storage(storage, storage)
        .host()?;

    let k_new: [f32; 48] = std::array::from_fn(|i| (i * 7 % 48) as f32 - 24.);
    let mut cache = Cache {
        codes: [0; 128],
        scales: [0.; 16],
    };
    appends.run(Append {
        k_new: Tensor::new(&k_new, ROWS),
        stored: Caches::Apart(TensorMut::new(&mut cache.codes, PAGES), TensorMut::default()),
        k_scales: Scales::Computed(bytes_mut(&mut cache.scales)),
        page_table: &PAGE_TABLE,
        offsets: Offsets::Read(&OFFSETS),
        ..Append::default()
    })?;
    let k_out = cache.gather(&gathers)?;
    let errors = k_out.iter().zip(&k_new).map(|(out, new)| (out - new).abs());
    println!("largest error: {:.4}", errors.fold(0., f32::max));

    // Row 4 of sample 0 (page 1, row 0) takes the place of its row 2 (page 3, row 2), with its scale.
    moves.move_rows(Move {
        stored: Caches::Apart(TensorMut::new(&mut cache.codes, PAGES), TensorMut::default()),
        k_scales: MovedScales::Apart(bytes_mut(&mut cache.scales)),
        from_slots: &[4],
        slots: &[3 * 4 + 2],
        ..Move::default()
    })?;
    let same = cache.gather(&gathers)?[..8] == k_out[16..24];
    println!("row 4 is now row 2: {same}");
    Ok(())
}
