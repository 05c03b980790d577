//! The fused unpack-scale-matmul `y = x (S T)^t`.

mod bytes;
mod decode;
mod lookup;
pub(crate) mod terms;

use super::dense::{Dense, Steps};
use super::isa::Tier;
use super::isa::backward::Backward;
use super::isa::forward::{Forward, Lanes};
use crate::float::Activation;
use crate::trits::TernaryMatrix;

/// The most tokens that look up bytes together.
const MOST_LANES: usize = 8;

/// `y[m, o] = sum over i of x[m, i] * scale[o, i / group_size] * T[o, i]`, summed in float32.
///
/// `x [tokens, in]`, `scale [out, groups]`, `y [tokens, out]`, all row-major. The sum of every element has an order of its own that
/// depends on the shape and the tier, never on the number of threads.
///
/// # Panics
/// Where the lengths of the operands do not agree.
pub fn matmul<X: Activation, Y: Activation>(x: &[X], matrix: TernaryMatrix<'_>, scale: &[f32], y: &mut [Y]) {
    matmul_on(Tier::chosen(), x, matrix, scale, y);
}

/// [`matmul`] on a tier of this machine.
///
/// # Panics
/// As [`matmul`], and where this machine has not the tier.
pub fn matmul_on<X: Activation, Y: Activation>(tier: Tier, x: &[X], matrix: TernaryMatrix<'_>, scale: &[f32], y: &mut [Y]) {
    let (layout, out_dim) = (matrix.layout(), matrix.out_dim());
    let tokens = x.len() / layout.in_dim();
    assert_eq!(x.len(), tokens * layout.in_dim(), "x of whole tokens");
    assert_eq!(y.len(), tokens * out_dim, "y of {tokens} tokens");
    assert_eq!(scale.len(), out_dim * layout.groups(), "a scale for every group");
    if y.is_empty() {
        return;
    }
    let forward = Forward::of(tier);
    if forward.is_dense(layout.group_size(), tokens) {
        let (product, weights) = (Backward::of(tier).float32, forward.transposed);
        return Dense { tier, product, weights, steps: Steps::Columns, left: x, matrix, scale }.write(y);
    }
    let (lookup_in, rest_in) = x.split_at(forward.tokens_looked_up(layout.group_size(), tokens) * layout.in_dim());
    let (lookup_out, rest_out) = y.split_at_mut(lookup_in.len() / layout.in_dim() * out_dim);
    match forward.lookup {
        Some(Lanes::Eight(kernels)) => lookup::matmul(tier, kernels, lookup_in, matrix, scale, lookup_out),
        Some(Lanes::Sixteen(kernels)) => lookup::matmul(tier, kernels, lookup_in, matrix, scale, lookup_out),
        None => {}
    }
    if let Some(kernels) = forward.decode {
        return decode::matmul(kernels, rest_in, matrix, scale, rest_out);
    }
    for (x, y) in rest_in.chunks(MOST_LANES * layout.in_dim()).zip(rest_out.chunks_mut(MOST_LANES * out_dim)) {
        match y.len() / out_dim {
            1 => bytes::matmul::<1, X, Y>(tier, x, matrix, scale, y),
            2..=4 => bytes::matmul::<4, X, Y>(tier, x, matrix, scale, y),
            _ => bytes::matmul::<MOST_LANES, X, Y>(tier, x, matrix, scale, y),
        }
    }
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;
    use crate::cpu::isa::forward::all_lookups;
    use crate::trits::GroupLayout;

    #[test]
    fn every_product_by_look_up_gives_the_sums_of_the_byte_tables_whatever_the_caches() {
        if all_lookups().is_empty() {
            return eprintln!("this machine has no AVX-512: no look-up was run whatever the caches");
        }
        let mut state = 1u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for group_size in [1, 4, 7, 8, 12, 16, 20, 24, 32, 33, 40, 64, 100, 333] {
            let (tokens, in_dim, out_dim) = (MOST_LANES, 333, 37);
            let layout = GroupLayout::new(in_dim, group_size).expect("a lawful layout");
            let packed: Vec<u8> = (0..out_dim * layout.row_bytes()).map(|_| random(243) as u8).collect();
            let scale: Vec<f32> = (0..out_dim * layout.groups()).map(|_| 1.0 / (1 + random(4)) as f32).collect();
            let x: Vec<f32> = (0..tokens * in_dim).map(|_| random(65) as f32 / 32.0 - 1.0).collect();
            let matrix = TernaryMatrix::new(&packed, out_dim, layout);
            let mut wanted = vec![0f32; tokens * out_dim];
            bytes::matmul::<MOST_LANES, _, _>(Tier::Portable, &x, matrix, &scale, &mut wanted);
            for (tier, lanes) in all_lookups() {
                let mut y = vec![f32::NAN; tokens * out_dim];
                let name = match lanes {
                    Lanes::Eight(kernels) => {
                        lookup::matmul(tier, kernels, &x, matrix, &scale, &mut y);
                        kernels.name
                    }
                    Lanes::Sixteen(kernels) => {
                        lookup::matmul(tier, kernels, &x, matrix, &scale, &mut y);
                        kernels.name
                    }
                };
                let close = y.iter().zip(&wanted).all(|(y, wanted)| (y - wanted).abs() <= 1e-4);
                assert!(close, "{name}, groups of {group_size}: {y:?}, wanted {wanted:?}");
            }
        }
    }
}
