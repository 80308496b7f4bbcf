// SPDX-License-Identifier: Apache-2.0
use kvappend::{Append, Caches, Descriptor, Layout, Offsets, Tensor, TensorMut};

fn main() -> kvappend::Result<()> {
    // Two samples with one head: one new row for each, for caches of four rows of three elements.
    let new = Layout::contiguous([2, 1, 1, 3]);
    let cache = Layout::contiguous([2, 1, 4, 3]);
    let plan = Descriptor::new(new, new, cache, cache).host::<f32, i64, i32>()?;

    let (k_new, v_new) = ([1., 2., 3., 4., 5., 6.], [-1., -2., -3., -4., -5., -6.]);
    let (mut k_cache, mut v_cache) = ([0.; 24], [0.; 24]);
    plan.run(Append {
        k_new: Tensor::new(&k_new, new),
        v_new: Tensor::new(&v_new, new),
        caches: Caches::Apart(TensorMut::new(&mut k_cache, cache), TensorMut::new(&mut v_cache, cache)),
        offsets: Offsets::Read(&[2, 0]), // the first sample has two rows already
        ..Append::default()
    })?;
    println!("K of sample 0: {:?}", &k_cache[..12]);
    println!("V of sample 1: {:?}", &v_cache[12..]);
    Ok(())
}
