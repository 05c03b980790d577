//! What every kernel test shares: one table of shapes, seeded problems and plain oracles in float64.

#![allow(dead_code, reason = "every test file is a crate of its own and uses a part of this")]

#[cfg(unix)]
pub mod guarded;

use ternax::float::Activation;
use ternax::trits::{GroupLayout, TernaryMatrix, pack_row};

/// Sizes of one problem: `x [tokens, in_dim]`, `T [out_dim, in_dim]` in groups of `group_size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub tokens: usize,
    pub in_dim: usize,
    pub out_dim: usize,
    pub group_size: usize,
}

const fn shape(tokens: usize, in_dim: usize, out_dim: usize, group_size: usize) -> Shape {
    Shape { tokens, in_dim, out_dim, group_size }
}

/// The shapes that every kernel runs: 0, 1, primes, inputs that are no multiple of 5 or of the group, ragged last groups, groups
/// of one and groups larger than the row, tokens around every tile border, and some that fill whole tiles.
pub const SHAPES: &[Shape] = &[
    shape(0, 8, 4, 4),
    shape(3, 8, 0, 4),
    shape(1, 1, 1, 1),
    shape(1, 1, 1, 32),
    shape(2, 5, 3, 5),
    shape(3, 7, 3, 4),
    shape(4, 9, 5, 100),
    shape(5, 6, 4, 1),
    shape(1, 33, 17, 32),
    shape(7, 31, 16, 32),
    shape(15, 64, 33, 32),
    shape(16, 96, 64, 32),
    shape(17, 97, 31, 8),
    shape(13, 101, 61, 24),
    shape(8, 128, 48, 16),
    shape(31, 160, 37, 40),
    shape(32, 256, 96, 64),
    shape(33, 130, 65, 128),
    shape(48, 520, 19, 256),
    shape(64, 333, 77, 80),
    shape(65, 127, 113, 32),
    shape(129, 192, 45, 32),
    shape(333, 100, 77, 7),
    shape(2, 1000, 777, 32),
    shape(1, 1024, 300, 32),
    shape(6, 2048, 40, 32),
    shape(260, 520, 270, 32),
    shape(1030, 64, 24, 32),
];

/// A small, fixed generator (splitmix64): the same numbers on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A whole number in `low..=high`.
    pub fn integer(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next_u64() % (high - low + 1) as u64) as i64
    }

    /// A number in [-1, 1).
    pub fn uniform(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// How the floats of a problem are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values {
    /// Multiples of 1/4 of size at most 2, scales powers of two: every sum is exact in float32 in any order.
    Dyadic,
    /// Uniform in [-1, 1), scales in [0.5, 1.5).
    Uniform,
}

/// Trits, scales and activations of one shape.
pub struct Problem<A> {
    pub shape: Shape,
    pub layout: GroupLayout,
    pub trits: Vec<i8>,
    pub packed: Vec<u8>,
    pub scale: Vec<f32>,
    pub x: Vec<A>,
    pub dy: Vec<A>,
}

impl<A: Activation> Problem<A> {
    pub fn new(shape: Shape, values: Values) -> Self {
        let Shape { tokens, in_dim, out_dim, group_size } = shape;
        let layout = GroupLayout::new(in_dim, group_size).expect("a lawful shape");
        let mut random = Random::new((tokens * 7919 + in_dim * 104_729 + out_dim * 31 + group_size) as u64);
        let trits: Vec<i8> = (0..out_dim * in_dim).map(|_| random.integer(-1, 1) as i8).collect();
        let mut packed = vec![0; out_dim * layout.row_bytes()];
        for (row, bytes) in trits.chunks_exact(in_dim).zip(packed.chunks_exact_mut(layout.row_bytes())) {
            pack_row(row, layout, bytes);
        }
        let scale = (0..out_dim * layout.groups())
            .map(|_| match values {
                Values::Dyadic => 2f32.powi(random.integer(-3, 1) as i32),
                Values::Uniform => 1.0 + random.uniform() / 2.0,
            })
            .collect();
        let mut activations = |count| {
            let draw = |_| match values {
                Values::Dyadic => A::from_f32(random.integer(-8, 8) as f32 / 4.0),
                Values::Uniform => A::from_f32(random.uniform()),
            };
            (0..count).map(draw).collect()
        };
        let (x, dy) = (activations(tokens * in_dim), activations(tokens * out_dim));
        Self { shape, layout, trits, packed, scale, x, dy }
    }

    pub fn matrix(&self) -> TernaryMatrix<'_> {
        TernaryMatrix::new(&self.packed, self.shape.out_dim, self.layout)
    }

    /// `S T` at (row, input).
    pub fn weight(&self, row: usize, input: usize) -> f64 {
        let scale = self.scale[row * self.layout.groups() + input / self.shape.group_size];
        f64::from(scale) * f64::from(self.trits[row * self.shape.in_dim + input])
    }

    /// `S T`, row by row.
    fn weights(&self) -> Vec<f64> {
        let Shape { in_dim, out_dim, .. } = self.shape;
        (0..out_dim * in_dim).map(|at| self.weight(at / in_dim, at % in_dim)).collect()
    }

    /// `y = x (S T)^t`: each value with the sum of its terms' sizes.
    pub fn matmul(&self) -> Vec<Sum> {
        let Shape { tokens, in_dim, out_dim, .. } = self.shape;
        let (x, weights) = (wide(&self.x), self.weights());
        let term = |token: usize, row: usize, input: usize| x[token * in_dim + input] * weights[row * in_dim + input];
        (0..tokens * out_dim).map(|at| (at / out_dim, at % out_dim)).map(|(t, o)| Sum::of((0..in_dim).map(|i| term(t, o, i)))).collect()
    }

    /// `dx = dy (S T)`: each value with the sum of its terms' sizes.
    pub fn matmul_transposed(&self) -> Vec<Sum> {
        let Shape { tokens, in_dim, out_dim, .. } = self.shape;
        let (dy, weights) = (wide(&self.dy), self.weights());
        let term = |token: usize, input: usize, row: usize| dy[token * out_dim + row] * weights[row * in_dim + input];
        (0..tokens * in_dim).map(|at| (at / in_dim, at % in_dim)).map(|(t, i)| Sum::of((0..out_dim).map(|o| term(t, i, o)))).collect()
    }

    /// `dW = dy^t x`, `[out, in]`: each value with the sum of its terms' sizes.
    pub fn weight_gradient(&self) -> Vec<Sum> {
        let Shape { tokens, in_dim, out_dim, .. } = self.shape;
        let (x, dy) = (wide(&self.x), wide(&self.dy));
        let term = |row: usize, input: usize, token: usize| dy[token * out_dim + row] * x[token * in_dim + input];
        (0..out_dim * in_dim).map(|at| (at / in_dim, at % in_dim)).map(|(o, i)| Sum::of((0..tokens).map(|t| term(o, i, t)))).collect()
    }

    /// The scores, each with the number of its gradients whose sign float32 may not decide (the tie band).
    pub fn scores(&self) -> Vec<(f32, f32)> {
        let Shape { tokens, in_dim, out_dim, group_size } = self.shape;
        let gradient = self.weight_gradient();
        let mut scores = vec![(0.0, 0.0); out_dim * self.layout.groups()];
        for (at, sum) in gradient.iter().enumerate() {
            let (row, input) = (at / in_dim, at % in_dim);
            let score = &mut scores[row * self.layout.groups() + input / group_size];
            let trit = f32::from(self.trits[at]);
            if sum.value == 0.0 || sum.value.abs() <= sum.bound(tokens) {
                score.1 += if sum.value == 0.0 && sum.size == 0.0 { 0.0 } else { trit.abs() };
            }
            score.0 += trit * if sum.value == 0.0 { 0.0 } else { sum.value.signum() as f32 };
        }
        scores
    }
}

fn wide<A: Activation>(values: &[A]) -> Vec<f64> {
    values.iter().map(|value| f64::from(value.to_f32())).collect()
}

/// A sum in float64 and the sum of the sizes of its terms.
#[derive(Clone, Copy, Debug)]
pub struct Sum {
    pub value: f64,
    pub size: f64,
}

impl Sum {
    fn of(terms: impl Iterator<Item = f64>) -> Self {
        terms.fold(Self { value: 0.0, size: 0.0 }, |sum, term| Self { value: sum.value + term, size: sum.size + term.abs() })
    }

    /// The worst error of a float32 sum of `length` products in any order: `(length + 2) u sum|terms|`, u = 2^-24.
    pub fn bound(&self, length: usize) -> f64 {
        (length as f64 + 2.0) * 2f64.powi(-24) * self.size
    }
}

/// Asserts that `found` is `wanted` within what float32 sums of `length` terms and one rounding to `A` allow.
pub fn assert_close<A: Activation>(found: &[A], wanted: &[Sum], length: usize, what: &str) {
    let rounding = match A::NAME {
        "bfloat16" => 2f64.powi(-8),
        "float16" => 2f64.powi(-11),
        _ => 0.0,
    };
    assert_eq!(found.len(), wanted.len(), "{what}");
    for (index, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let (found, bound) = (f64::from(found.to_f32()), wanted.bound(length));
        let allowed = bound + rounding * (wanted.value.abs() + bound) + 2f64.powi(-25) * if rounding > 0.0 { 1.0 } else { 0.0 };
        assert!((found - wanted.value).abs() <= allowed, "{what}: element {index} is {found}, wanted {wanted:?} within {allowed:e}");
    }
}
