//! What the forward product needs of a tier: one table of functions for each.
//!
//! Very few tokens: [`Decode`], where rows look up their bytes in registers. Many: [`Lookup`], the "method of the
//! four Russians" (Arlazarov, Dinic, Kronrod, Faradzhev 1970) in float32. For some tokens, one per lane, and four inputs the 81
//! sums with coefficients -1, 0 and 1 are tabled; then four trits of a row cost one look-up and one addition.

use std::ops::{Range, RangeInclusive};

use super::backward::Weights;
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{Tier, portable};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use crate::cpu::cache;
use crate::cpu::matmul::terms::Chunk;
use crate::trits::{GroupLayout, TernaryMatrix};

/// Sums of one term: 3^4.
pub const TERM_SUMS: usize = 81;
/// Bytes that an offset of 16 bits can reach.
const REACH: usize = 1 << 16;

/// The product by look-up, `LANES` tokens at a time. Tables lie in [`Lookup::ENTRIES`] entries of memory, which no offset can
/// leave.
///
/// The offsets of a chunk are `chunk_terms` numbers of 16 bits for each row, two in a word, the first one low: where the sums of
/// each term lie in the tables, in bytes.
pub struct Lookup<const LANES: usize> {
    /// Name in the log.
    pub name: &'static str,
    /// The most terms of a chunk, 4 or 8.
    pub chunk_terms: usize,
    /// `offsets(matrix, rows, chunks, to, stride)`: the offsets of `rows` for the neighbouring chunks of some windows, those of
    /// each chunk `stride` words after those of the one before. There is room for rows up to a multiple of [`ROW_STEP`].
    pub offsets: fn(TernaryMatrix<'_>, Range<usize>, &[Chunk], &mut [u32], usize),
    /// `tables(panel, to)`: the sums of all terms of a panel `[inputs][lanes]`.
    pub tables: fn(&[[f32; LANES]], &mut [[f32; LANES]]),
    /// `accumulate(chunk, tables, offsets, scales, sums)`: for each row, adds to its sums the terms of each group slot of the
    /// chunk times the scale of the slot, `scales [rows, slots]`.
    pub accumulate: Accumulate<LANES>,
    /// `transpose(from, stride, to, to_stride)`: `to[column * to_stride + row] = from[row * stride + column]` for `LANES` rows and
    /// as many columns, up to `LANES`, as `to` has room for. All columns of the last row must exist.
    pub transpose: fn(&[f32], usize, &mut [f32], usize),
}

/// [`Lookup::accumulate`].
pub type Accumulate<const LANES: usize> = fn(&Chunk, &[[f32; LANES]], &[u32], &[f32], &mut [[f32; LANES]]);

/// Rows whose offsets are written together.
pub const ROW_STEP: usize = 4;

impl<const LANES: usize> Lookup<LANES> {
    /// Entries of the memory for tables: a whole one starts at every offset.
    pub const ENTRIES: usize = REACH / (4 * LANES) + 1;

    /// Bytes of L1 cache that the tables of a chunk fill.
    pub const fn table_bytes(&self) -> usize {
        self.chunk_terms * TERM_SUMS * 4 * LANES
    }
}

/// [`Decode::rows`].
pub type DecodeRows = fn(TernaryMatrix<'_>, &[f32], Range<usize>, &[f32], &mut [f32]);

/// The product for few tokens: tables of each token's inputs are made once, then rows look up their bytes in them.
pub struct Decode {
    /// Name in the log.
    pub name: &'static str,
    /// Tokens that share one pass over the rows.
    pub tokens_at_once: usize,
    /// Floats of the tables of one token.
    pub table_len: fn(GroupLayout) -> usize,
    /// `tables(layout, x, to)`: the tables of one token.
    pub tables: fn(GroupLayout, &[f32], &mut [f32]),
    /// `rows(matrix, scale, rows, tables, sums)`: the product for `rows`, `sums [tokens, rows]`, of up to `tokens_at_once` tokens
    /// whose tables lie one after the other.
    pub rows: DecodeRows,
}

/// The forward kernels of one tier.
pub struct Forward {
    /// Few tokens, where there is a way faster than tables of bytes.
    pub decode: Option<&'static Decode>,
    /// Many tokens, where it is faster than tables of bytes.
    pub lookup: Option<Lanes>,
    /// Right panels of the transpose of `S T`, one column of the matrix per step, for [`Backward::float32`].
    ///
    /// [`Backward::float32`]: super::backward::Backward::float32
    pub transposed: Weights<f32>,
    ways: fn(usize) -> Ways,
}

/// The fastest ways by the number of tokens, for one size of groups. All numbers come from sweeps over both
/// on a Zen 4.
struct Ways {
    /// The fewest and the most tokens of the dense product.
    dense: RangeInclusive<usize>,
    /// The fewest tokens that pay for the offsets of the look-up, other than those of the dense product.
    lookup: usize,
    /// The most tokens beyond whole registers that another pass over the matrix multiplies faster than another register.
    rest: usize,
}

/// No number of tokens that a product has.
const NONE: RangeInclusive<usize> = 0..=0;

impl Ways {
    /// AVX-512. Groups of one or two share next to nothing that could be looked up. Between the other sizes the padding differs, to
    /// whole bytes and to whole terms.
    #[cfg(target_arch = "x86_64")]
    fn avx512(group_size: usize) -> Self {
        let (dense, lookup, rest) = match group_size {
            1 | 2 => (1..=usize::MAX, usize::MAX, 0),
            3 => (4..=9, 10, 2),
            4 => (3..=4, 5, 0),
            6 => (NONE, 6, 3),
            7 | 12 => (NONE, 9, 4),
            8 => (NONE, 5, 2),
            16 => (NONE, 8, 4),
            5 | 9 | 10 | 20 | 40 => (NONE, 11, 7),
            _ => (NONE, 8, 6),
        };
        Self { dense, lookup, rest }
    }

    #[cfg(target_arch = "x86_64")]
    fn avx2(group_size: usize) -> Self {
        let (dense, lookup) = match group_size {
            1 => (65..=usize::MAX, 17),
            3 => (NONE, 9),
            _ => (NONE, 17),
        };
        Self { dense, lookup, rest: 0 }
    }

    /// Computed from counts of instructions: no such machine was at hand.
    #[cfg(target_arch = "aarch64")]
    fn neon(group_size: usize) -> Self {
        Self { lookup: 9, ..Self::plain(group_size) }
    }

    /// Without a look-up.
    fn plain(group_size: usize) -> Self {
        let dense = if group_size == 1 { 33..=usize::MAX } else { NONE };
        Self { dense, lookup: usize::MAX, rest: 0 }
    }
}

/// The product by look-up with as many lanes as suit the machine.
pub enum Lanes {
    /// 256 bits, or two registers of 128.
    Eight(&'static Lookup<8>),
    /// 512 bits, or four registers of 128.
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
            Tier::Portable => Self { decode: None, lookup: None, transposed: portable::panel::transposed::<8>, ways: Ways::plain },
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => Self {
                decode: None,
                lookup: Some(neon::lookup::for_caches(cache::sizes())),
                transposed: portable::panel::transposed::<8>,
                ways: Ways::neon,
            },
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => Self {
                decode: None,
                lookup: Some(Lanes::Eight(&avx2::lookup::LOOKUP)),
                transposed: portable::panel::transposed::<16>,
                ways: Ways::avx2,
            },
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => Self {
                decode: Some(&avx512::decode::DECODE),
                lookup: Some(Lanes::Sixteen(avx512::lookup::for_caches(cache::sizes()))),
                transposed: avx512::transposed::weights,
                ways: Ways::avx512,
            },
            #[cfg(not(target_arch = "aarch64"))]
            Tier::Neon => unreachable!("not available on this architecture"),
            #[cfg(not(target_arch = "x86_64"))]
            Tier::Avx2 | Tier::Avx512 => unreachable!("not available on this architecture"),
        }
    }

    /// Whether the dense product is the fastest way.
    pub fn is_dense(&self, group_size: usize, tokens: usize) -> bool {
        (self.ways)(group_size).dense.contains(&tokens)
    }

    /// How many of `tokens` tokens, from the first one on, take the product by look-up.
    pub fn tokens_looked_up(&self, group_size: usize, tokens: usize) -> usize {
        let lanes = match self.lookup {
            None => return 0,
            Some(Lanes::Eight(_)) => 8,
            Some(Lanes::Sixteen(_)) => 16,
        };
        let ways = (self.ways)(group_size);
        match tokens % lanes {
            _ if tokens < ways.lookup => 0,
            rest if rest <= ways.rest => tokens - rest,
            _ => tokens,
        }
    }
}

/// The AVX-512 product by look-up in chunks of 4 or 8 terms, whatever the caches.
#[cfg(all(test, target_arch = "x86_64"))]
pub fn all_lookups() -> Vec<(Tier, Lanes)> {
    let lookups = [Lanes::Sixteen(&avx512::lookup::FOUR_TERMS), Lanes::Sixteen(&avx512::lookup::EIGHT_TERMS)];
    if Tier::Avx512.is_available() { lookups.map(|lanes| (Tier::Avx512, lanes)).into() } else { Vec::new() }
}

/// The NEON products by look-up on 8 and 16 lanes, whatever the caches.
#[cfg(all(test, target_arch = "aarch64"))]
pub fn all_lookups() -> Vec<(Tier, Lanes)> {
    [Lanes::Eight(&neon::lookup::EIGHT), Lanes::Sixteen(&neon::lookup::SIXTEEN)].map(|lanes| (Tier::Neon, lanes)).into()
}
