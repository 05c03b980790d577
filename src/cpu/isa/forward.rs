//! What the forward product needs of a tier: one table of functions for each.
//!
//! Few tokens: [`Decode`], where tables of the inputs are looked up by the packed bytes. More: [`Lookup`], the "method of the
//! four Russians" (Arlazarov, Dinic, Kronrod, Faradzhev 1970) in float32. For some tokens, one per lane, and four inputs the 81
//! sums with coefficients -1, 0 and 1 are tabled; then four trits of a row cost one look-up and one addition.

use std::ops::Range;

use super::{Tier, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::cpu::cache;
use crate::cpu::matmul::terms::{CHUNK_INPUTS, CHUNK_TERMS, Chunk};
use crate::trits::{GroupLayout, TernaryMatrix};

/// Sums of one term: 3^4.
pub const TERM_SUMS: usize = 81;
/// Bytes that an offset of 16 bits can reach.
const REACH: usize = 1 << 16;

/// For one row, where the sums of the terms of a chunk lie in its tables: offsets in bytes of 16 bits each, the least
/// significant first.
pub type Offsets = [u32; CHUNK_TERMS / 2];

/// The product by look-up, `LANES` tokens at a time. Tables lie in [`Lookup::ENTRIES`] entries of memory, which no offset can
/// leave.
pub struct Lookup<const LANES: usize> {
    /// Name in the log.
    pub name: &'static str,
    /// `offsets(matrix, rows, chunks, to)`: the offsets of `rows` for two neighbouring chunks, or for one.
    pub offsets: fn(TernaryMatrix<'_>, Range<usize>, &[Chunk], [&mut [Offsets]; 2]),
    /// `tables(panel, terms, to)`: the sums of the first `terms` terms of a panel `[inputs][lanes]`.
    pub tables: fn(&[[f32; LANES]; CHUNK_INPUTS], usize, &mut [[f32; LANES]]),
    /// `accumulate(chunk, tables, offsets, scales, sums)`: for each row, adds to its sums the terms of each group slot of the
    /// chunk times the scale of the slot, `scales [rows, slots]`.
    pub accumulate: fn(&Chunk, &[[f32; LANES]], &[Offsets], &[f32], &mut [[f32; LANES]]),
    /// `transpose(from, stride, to)`: `to[column][row] = from[row * stride + column]` for a square of `LANES`.
    pub transpose: fn(&[f32], usize, &mut [[f32; LANES]; LANES]),
}

impl<const LANES: usize> Lookup<LANES> {
    /// Entries of the memory for tables: a whole one starts at every offset.
    pub const ENTRIES: usize = REACH / (4 * LANES) + 1;
    /// Bytes of L1 cache that the tables of a chunk fill.
    pub const TABLE_BYTES: usize = CHUNK_TERMS * TERM_SUMS * 4 * LANES;
}

/// The product for few tokens: tables of each token's inputs are made once, then rows look up their bytes in them.
pub struct Decode {
    /// Name in the log.
    pub name: &'static str,
    /// The most tokens for which it is the fastest way.
    pub most_tokens: usize,
    /// Tokens that share one pass over the rows.
    pub tokens_at_once: usize,
    /// Floats of the tables of one token.
    pub table_len: fn(GroupLayout) -> usize,
    /// `tables(layout, x, to)`: the tables of one token.
    pub tables: fn(GroupLayout, &[f32], &mut [f32]),
    /// `rows(matrix, scale, rows, tables, sums)`: the product for `rows`, `sums [tokens, rows]`, of up to `tokens_at_once` tokens
    /// whose tables lie one after the other.
    pub rows: fn(TernaryMatrix<'_>, &[f32], Range<usize>, &[f32], &mut [f32]),
}

/// The forward kernels of one tier.
pub struct Forward {
    /// Few tokens.
    pub decode: &'static Decode,
    /// More tokens.
    pub lookup: Lanes,
}

/// The product by look-up with as many lanes as suit the machine.
pub enum Lanes {
    /// Tables of 20.7 KB.
    Eight(&'static Lookup<8>),
    /// Tables of 41.5 KB.
    Sixteen(&'static Lookup<16>),
}

impl Forward {
    /// The kernels of a tier.
    ///
    /// # Panics
    /// Where this machine has not that tier.
    pub fn of(tier: Tier) -> Self {
        assert!(tier.is_available(), "this machine has no {}", tier.name());
        match tier {
            Tier::Portable | Tier::Neon => Self { decode: &portable::decode::DECODE, lookup: Lanes::Eight(&portable::lookup::LOOKUP) },
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => Self { decode: &portable::decode::DECODE, lookup: Lanes::Eight(&avx2::lookup::LOOKUP) },
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => Self {
                decode: &avx512::decode::DECODE,
                lookup: if cache::sizes().l1_data > Lookup::<16>::TABLE_BYTES {
                    Lanes::Sixteen(&avx512::lookup::SIXTEEN)
                } else {
                    Lanes::Eight(&avx512::lookup::EIGHT)
                },
            },
            #[cfg(not(target_arch = "x86_64"))]
            Tier::Avx2 | Tier::Avx512 => unreachable!("not available on this architecture"),
        }
    }
}
