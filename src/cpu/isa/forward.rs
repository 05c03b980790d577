//! What the forward product needs of a tier: one table of functions for each.
//!
//! Very few tokens: [`Decode`], where rows look up their bytes in registers. Many: [`Lookup`], the "method of the
//! four Russians" (Arlazarov, Dinic, Kronrod, Faradzhev 1970) in float32. For some tokens, one per lane, and four inputs the 81
//! sums with coefficients -1, 0 and 1 are tabled; then four trits of a row cost one look-up and one addition.

use std::ops::Range;

use super::Tier;
#[cfg(target_arch = "aarch64")]
use super::neon;
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
    pub rows: DecodeRows,
}

/// The forward kernels of one tier.
pub struct Forward {
    /// The fewest tokens, where there is a way faster than tables of bytes.
    pub decode: Option<&'static Decode>,
    /// Many tokens, where it is faster than tables of bytes.
    pub lookup: Option<Lanes>,
    /// The fewest tokens that pay for the offsets of the look-up.
    least_lookup: usize,
    /// The most tokens beyond whole registers that another pass over the matrix multiplies faster than another register.
    most_rest: usize,
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
            Tier::Portable => Self { decode: None, lookup: None, least_lookup: usize::MAX, most_rest: 0 },
            #[cfg(target_arch = "aarch64")]
            Tier::Neon => Self { decode: None, lookup: Some(neon::lookup::for_caches(cache::sizes())), least_lookup: 9, most_rest: 0 },
            #[cfg(target_arch = "x86_64")]
            Tier::Avx2 => Self { decode: None, lookup: Some(Lanes::Eight(&avx2::lookup::LOOKUP)), least_lookup: 33, most_rest: 0 },
            #[cfg(target_arch = "x86_64")]
            Tier::Avx512 => Self {
                decode: Some(&avx512::decode::DECODE),
                lookup: Some(Lanes::Sixteen(avx512::lookup::for_caches(cache::sizes()))),
                least_lookup: 9,
                most_rest: 5,
            },
            #[cfg(not(target_arch = "aarch64"))]
            Tier::Neon => unreachable!("not available on this architecture"),
            #[cfg(not(target_arch = "x86_64"))]
            Tier::Avx2 | Tier::Avx512 => unreachable!("not available on this architecture"),
        }
    }

    /// How many of `tokens` tokens, from the first one on, take the product by look-up.
    pub fn tokens_looked_up(&self, tokens: usize) -> usize {
        let lanes = match self.lookup {
            None => return 0,
            Some(Lanes::Eight(_)) => 8,
            Some(Lanes::Sixteen(_)) => 16,
        };
        match tokens % lanes {
            _ if tokens < self.least_lookup => 0,
            rest if rest <= self.most_rest => tokens - rest,
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
