//! The product of few tokens with rows in lanes: 16 rows look up the sums of three and of two inputs in registers.
//!
//! The bytes of 16 rows are transposed so that a dword lane belongs to one row. A byte table gives the low three digits of each
//! packed byte (0..27) and a multiplication its high two (0..9), which index the sums of the byte's five inputs in one
//! two-register and one one-register permutation. A block of bytes stays small enough for the tables of its inputs to lie in the L1 cache while many
//! rows pass over it.

use std::arch::x86_64::*;
use std::ops::Range;

use super::transpose::{transpose_16x8, transpose_16x16};
use super::window::{load, look_up};
use crate::cpu::cache;
use crate::cpu::isa::forward::Decode;
use crate::trits::{GroupLayout, TRITS_PER_BYTE, TernaryMatrix};

/// Rows that are multiplied together, one per lane.
const LANES: usize = 16;
/// Bytes of a lane: one dword of the transpose.
const WORD: usize = 4;
/// Bytes of one row that are transposed together.
const BLOCK_BYTES: usize = 64;
/// Sums of the low three inputs of a byte, in two registers.
const LOW_SUMS: usize = 32;
/// Sums of one byte: those of the low three inputs and those of the high two.
const BYTE_SUMS: usize = LOW_SUMS + LANES;
/// Tokens that share a pass.
const TOKENS: usize = 2;

/// The AVX-512 product of few tokens.
pub static DECODE: Decode = Decode { name: "avx512 decode", most_tokens: 5, tokens_at_once: TOKENS, table_len, tables, rows };

/// The low three digits of every byte, 0..27; bytes above 242 read modulo 243.
static LOW: [u8; 256] = {
    let mut low = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        low[byte] = (byte % 243 % 27) as u8;
        byte += 1;
    }
    low
};

/// The high two digits of a byte are `(HIGH byte) >> 16`; those of bytes above 242 are 9 at most.
const HIGH: i16 = 19 << 7;
const _: () = {
    let mut byte = 0;
    while byte < 243 {
        assert!((byte * HIGH as u32) >> 16 == byte / 27);
        byte += 1;
    }
};

/// Trit `place` of every index 0..32, for tables of sums.
const fn trits(place: u32) -> [f32; LOW_SUMS] {
    let mut trits = [0.0; LOW_SUMS];
    let mut index = 0;
    while index < LOW_SUMS {
        trits[index] = (index / 3usize.pow(place) % 3) as f32 - 1.0;
        index += 1;
    }
    trits
}

/// [`trits`] of the places 0, 1 and 2.
static TRITS: [[f32; LOW_SUMS]; 3] = [trits(0), trits(1), trits(2)];

fn table_len(layout: GroupLayout) -> usize {
    layout.row_bytes() * BYTE_SUMS
}

fn tables(layout: GroupLayout, x: &[f32], tables: &mut [f32]) {
    // SAFETY: the table with this function is handed out only where the machine has the tier.
    unsafe { tables_of_bytes(layout, x, tables) }
}

#[target_feature(enable = "avx512f")]
fn tables_of_bytes(layout: GroupLayout, x: &[f32], tables: &mut [f32]) {
    // SAFETY: the arrays have 32 floats each.
    let trits = unsafe { TRITS.each_ref().map(|trits| (_mm512_loadu_ps(trits.as_ptr()), _mm512_loadu_ps(trits.as_ptr().add(LANES)))) };
    let [(first, first_end), (second, second_end), (third, third_end)] = trits;
    let groups = x.chunks(layout.group_size()).zip(tables.chunks_exact_mut(layout.group_bytes() * BYTE_SUMS));
    for (inputs, tables) in groups {
        let mut inputs = inputs.chunks(TRITS_PER_BYTE);
        for table in tables.as_chunks_mut::<BYTE_SUMS>().0 {
            let mut five = [0.0; TRITS_PER_BYTE];
            if let Some(inputs) = inputs.next() {
                five[..inputs.len()].copy_from_slice(inputs);
            }
            let [a, b, c, d, e] = [five[0], five[1], five[2], five[3], five[4]].map(|input| _mm512_set1_ps(input));
            let low = _mm512_fmadd_ps(third, c, _mm512_fmadd_ps(second, b, _mm512_mul_ps(first, a)));
            let low_end = _mm512_fmadd_ps(third_end, c, _mm512_fmadd_ps(second_end, b, _mm512_mul_ps(first_end, a)));
            let high = _mm512_fmadd_ps(second, e, _mm512_mul_ps(first, d));
            for (to, sums) in table.as_chunks_mut::<LANES>().0.iter_mut().zip([low, low_end, high]) {
                // SAFETY: a register has 16 floats.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), sums) };
            }
        }
    }
}

/// Neighbouring bytes of a row that are transposed together: segments of equal length, each (part of) a group.
struct Block {
    first_byte: usize,
    first_group: usize,
    segments: usize,
    segment_bytes: usize,
    /// Whether only the low three digits of the last byte of a segment matter.
    half: bool,
    /// For each byte of the transposed block its byte in the row, so that every segment starts at a dword.
    spread: [u8; BLOCK_BYTES],
}

impl Block {
    /// The blocks of a row.
    fn all(layout: GroupLayout) -> Vec<Block> {
        let (groups, bytes) = (layout.groups(), layout.group_bytes());
        let half = (layout.group_len(0) - 1) % TRITS_PER_BYTE < 3;
        let segments = (LANES / bytes.div_ceil(WORD)).max(1);
        let whole = spread(segments, bytes.min(BLOCK_BYTES));
        let starts = (0..groups).step_by(segments).flat_map(|group| (0..bytes).step_by(BLOCK_BYTES).map(move |first| (group, first)));
        let block = |(group, first): (usize, usize)| {
            let (segments, segment_bytes) = (segments.min(groups - group), BLOCK_BYTES.min(bytes - first));
            Block {
                first_byte: group * bytes + first,
                first_group: group,
                segments,
                segment_bytes,
                half: half && first + BLOCK_BYTES >= bytes,
                // Bytes beyond the last segment are anything.
                spread: if segment_bytes == bytes.min(BLOCK_BYTES) { whole } else { spread(segments, segment_bytes) },
            }
        };
        starts.map(block).collect()
    }

    fn bytes(&self) -> usize {
        self.segments * self.segment_bytes
    }

    /// Dwords of a segment.
    fn words(&self) -> usize {
        self.segment_bytes.div_ceil(WORD)
    }
}

/// The [`Block::spread`] of some segments.
fn spread(segments: usize, segment_bytes: usize) -> [u8; BLOCK_BYTES] {
    let width = segment_bytes.next_multiple_of(WORD);
    std::array::from_fn(|byte| {
        let (segment, position) = (byte / width, byte % width);
        if segment < segments && position < segment_bytes { (segment * segment_bytes + position) as u8 } else { 0 }
    })
}

fn rows(matrix: TernaryMatrix<'_>, scale: &[f32], rows: Range<usize>, tables: &[f32], sums: &mut [f32]) {
    let layout = matrix.layout();
    let tokens = sums.len() / rows.len().max(1);
    assert!(rows.end <= matrix.out_dim() && scale.len() == matrix.out_dim() * layout.groups(), "rows and scales of the matrix");
    assert!(tables.len() >= tokens * table_len(layout), "tables of every token");
    let product = Product { matrix, scale, tables, first_row: rows.start, row_count: rows.len() };
    // A quarter of the L2 cache for some rows, as much for the next ones.
    let row_bytes = layout.row_bytes() + size_of::<f32>() * layout.groups();
    let rows_at_once = (cache::sizes().l2 / 4 / row_bytes / LANES * LANES).clamp(LANES, 512);
    let blocks = Block::all(layout);
    sums.fill(0.0);
    for start in rows.clone().step_by(rows_at_once) {
        let rows = start..rows.end.min(start + rows_at_once);
        for block in &blocks {
            // SAFETY: the operands were just measured, and the table with this function is handed out only where the machine has
            // the tier.
            unsafe {
                match tokens {
                    1 => product.add_block::<1>(block, rows.clone(), sums),
                    TOKENS => product.add_block::<TOKENS>(block, rows.clone(), sums),
                    _ => unreachable!("1 to {TOKENS} tokens at once"),
                }
            }
        }
    }
}

/// The operands of a product, measured by [`rows`].
struct Product<'a> {
    matrix: TernaryMatrix<'a>,
    scale: &'a [f32],
    tables: &'a [f32],
    /// The first row of the sums, and how many they are for each token.
    first_row: usize,
    row_count: usize,
}

impl Product<'_> {
    /// Adds what a block gives to the sums of some rows, for the `TOKENS` tokens of this pass.
    ///
    /// # Safety
    /// The rows are rows of the matrix and of the sums, and there are tables for all tokens.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    unsafe fn add_block<const TOKENS: usize>(&self, block: &Block, rows: Range<usize>, sums: &mut [f32]) {
        // SAFETY: the caller's promise is the callee's.
        unsafe {
            let whole_bytes = block.segment_bytes - usize::from(block.half);
            match (whole_bytes % WORD, block.half) {
                (0, false) => self.add_rows::<TOKENS, 0, false>(block, rows, sums),
                (1, false) => self.add_rows::<TOKENS, 1, false>(block, rows, sums),
                (2, false) => self.add_rows::<TOKENS, 2, false>(block, rows, sums),
                (_, false) => self.add_rows::<TOKENS, 3, false>(block, rows, sums),
                (0, true) => self.add_rows::<TOKENS, 0, true>(block, rows, sums),
                (1, true) => self.add_rows::<TOKENS, 1, true>(block, rows, sums),
                (2, true) => self.add_rows::<TOKENS, 2, true>(block, rows, sums),
                (_, true) => self.add_rows::<TOKENS, 3, true>(block, rows, sums),
            }
        }
    }

    /// [`add_block`](Self::add_block) for segments of whole dwords, `TAIL` whole bytes and, with `HALF`, a byte of which only
    /// the low three digits matter.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    unsafe fn add_rows<const TOKENS: usize, const TAIL: usize, const HALF: bool>(
        &self,
        block: &Block,
        rows: Range<usize>,
        sums: &mut [f32],
    ) {
        let parts = LOW.as_chunks::<64>().0;
        let low = [load(&parts[0]), load(&parts[1]), load(&parts[2]), load(&parts[3])];
        let spread = load(&block.spread);
        let whole_words = (block.segment_bytes - usize::from(HALF)) / WORD;
        let words = block.words();
        let row_bytes = self.matrix.layout().row_bytes();
        let table_len = row_bytes * BYTE_SUMS;
        let tables = &self.tables[block.first_byte * BYTE_SUMS..];
        for start in rows.clone().step_by(LANES) {
            let count = LANES.min(rows.end - start);
            self.prefetch(block, &rows, start);
            // SAFETY: the rows exist.
            let (scales, packed) = unsafe { (self.scales_of(block, start, count), self.words_of(block, start, count, spread)) };
            let lanes = u16::MAX >> (LANES - count);
            let mut total = [_mm512_setzero_ps(); TOKENS];
            for (segment, packed) in packed.chunks(words).take(block.segments).enumerate() {
                let mut table = tables[segment * block.segment_bytes * BYTE_SUMS..].as_ptr();
                let mut partial = [[_mm512_setzero_ps(); 2]; TOKENS];
                for &word in &packed[..whole_words] {
                    // SAFETY: the tables of a token go on for the bytes of its row.
                    unsafe { add_word::<TOKENS, WORD, false>(&low, word, table, table_len, &mut partial) };
                    table = table.wrapping_add(WORD * BYTE_SUMS);
                }
                if TAIL > 0 || HALF {
                    // SAFETY: as above.
                    unsafe { add_word::<TOKENS, TAIL, HALF>(&low, packed[whole_words], table, table_len, &mut partial) };
                }
                for (total, [low, high]) in total.iter_mut().zip(partial) {
                    *total = _mm512_fmadd_ps(_mm512_add_ps(low, high), scales[segment], *total);
                }
            }
            for (token, total) in total.into_iter().enumerate() {
                let sums = &mut sums[token * self.row_count + start - self.first_row..][..count];
                // SAFETY: the mask has as many lanes as there are sums.
                unsafe {
                    let before = _mm512_maskz_loadu_ps(lanes, sums.as_ptr());
                    _mm512_mask_storeu_ps(sums.as_mut_ptr(), lanes, _mm512_add_ps(before, total));
                }
            }
        }
    }

    /// Fetches the share of the next rows that belongs to one step over these: the bytes of 16 rows lie too far apart for the
    /// prefetchers of the processor. An address outside of the operands does no harm.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    fn prefetch(&self, block: &Block, rows: &Range<usize>, start: usize) {
        const LINE: usize = 64;
        let layout = self.matrix.layout();
        let (ahead, step) = (rows.len(), start - rows.start);
        let bytes = rows.end * layout.row_bytes() + block.first_byte * ahead + step * block.bytes();
        let scales = rows.end * layout.groups() + block.first_group * ahead + step * block.segments;
        for line in (0..LANES * block.bytes()).step_by(LINE) {
            _mm_prefetch::<_MM_HINT_T0>(self.matrix.bytes().as_ptr().wrapping_add(bytes + line).cast());
        }
        for line in (0..LANES * block.segments).step_by(LINE / size_of::<f32>()) {
            _mm_prefetch::<_MM_HINT_T0>(self.scale.as_ptr().wrapping_add(scales + line).cast());
        }
    }

    /// The dwords of a block of 16 rows, a row per lane; lanes past `count` repeat the last row.
    ///
    /// # Safety
    /// The rows are rows of the matrix.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    unsafe fn words_of(&self, block: &Block, start: usize, count: usize, spread: __m512i) -> [__m512i; LANES] {
        let row_bytes = self.matrix.layout().row_bytes();
        let mask = u64::MAX >> (BLOCK_BYTES - block.bytes());
        let first = self.matrix.bytes().as_ptr().wrapping_add(start * row_bytes + block.first_byte);
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (lane, row) in rows.iter_mut().enumerate() {
            // SAFETY: the row exists, and the mask ends with the block.
            let bytes = unsafe { _mm512_maskz_loadu_epi8(mask, first.wrapping_add(lane.min(count - 1) * row_bytes).cast()) };
            *row = _mm512_permutexvar_epi8(spread, bytes);
        }
        transpose_16x16(rows)
    }

    /// The scales of the segments of a block, a row per lane; lanes past `count` repeat the last row.
    ///
    /// # Safety
    /// The rows are rows of the matrix.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    unsafe fn scales_of(&self, block: &Block, start: usize, count: usize) -> [__m512; LANES] {
        let groups = self.matrix.layout().groups();
        let first = self.scale.as_ptr().wrapping_add(start * groups + block.first_group);
        let mut scales = [_mm512_setzero_ps(); LANES];
        if block.segments <= 8 {
            let mask = u8::MAX >> (8 - block.segments);
            let mut halves = [_mm512_setzero_ps(); 8];
            for (lane, half) in halves.iter_mut().enumerate() {
                let [low, high] = [lane, lane + 8].map(|lane| first.wrapping_add(lane.min(count - 1) * groups));
                // SAFETY: the rows exist, and the mask ends with the block.
                let (low, high) = unsafe { (_mm256_maskz_loadu_ps(mask, low), _mm256_maskz_loadu_ps(mask, high)) };
                *half = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high);
            }
            scales[..8].copy_from_slice(&transpose_16x8(halves));
        } else {
            let mask = u16::MAX >> (LANES - block.segments);
            let mut rows = [_mm512_setzero_si512(); LANES];
            for (lane, row) in rows.iter_mut().enumerate() {
                // SAFETY: as above.
                *row = unsafe { _mm512_maskz_loadu_epi32(mask, first.wrapping_add(lane.min(count - 1) * groups).cast()) };
            }
            for (scale, column) in scales.iter_mut().zip(transpose_16x16(rows)) {
                *scale = _mm512_castsi512_ps(column);
            }
        }
        scales
    }
}

/// Adds the inputs of the first `BYTES` bytes of a dword, and with `HALF` the first three of the next byte, to the sums of
/// every token: low threes to the first one, high twos to the second.
///
/// # Safety
/// `table` begins the tables of these bytes for the first token; those of the next lie `table_len` further.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
unsafe fn add_word<const TOKENS: usize, const BYTES: usize, const HALF: bool>(
    low: &[__m512i; 4],
    word: __m512i,
    table: *const f32,
    table_len: usize,
    sums: &mut [[__m512; 2]; TOKENS],
) {
    let low = bytes_of(look_up(low, word));
    // Two bytes to a multiplication: those at even places, then those at odd ones.
    let even = _mm512_mulhi_epu16(_mm512_and_si512(word, _mm512_set1_epi16(0xFF)), _mm512_set1_epi16(HIGH));
    let odd = _mm512_mulhi_epu16(odd_bytes(word), _mm512_set1_epi16(HIGH));
    let high = [even, odd, upper_halves(even), upper_halves(odd)];
    for byte in 0..BYTES + usize::from(HALF) {
        for (token, [low_sum, high_sum]) in sums.iter_mut().enumerate() {
            // SAFETY: the caller vouches for the table.
            unsafe {
                let table = table.add(token * table_len + byte * BYTE_SUMS);
                let (first, second) = (_mm512_loadu_ps(table), _mm512_loadu_ps(table.add(LANES)));
                *low_sum = _mm512_add_ps(*low_sum, _mm512_permutex2var_ps(first, low[byte], second));
                if byte < BYTES {
                    *high_sum = _mm512_add_ps(*high_sum, _mm512_permutexvar_ps(high[byte], _mm512_loadu_ps(table.add(LOW_SUMS))));
                }
            }
        }
    }
}

/// The upper halves of dwords, by a multiplication: shifts share the execution ports of the permutations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn upper_halves(words: __m512i) -> __m512i {
    _mm512_madd_epi16(words, _mm512_set1_epi32(1 << 16))
}

/// The upper bytes of words, by a multiplication too.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn odd_bytes(words: __m512i) -> __m512i {
    _mm512_maddubs_epi16(words, _mm512_set1_epi16(1 << 8))
}

/// Each byte of dwords in the lowest byte of a dword, with anything above it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn bytes_of(words: __m512i) -> [__m512i; WORD] {
    let odd = odd_bytes(words);
    [words, odd, upper_halves(words), upper_halves(odd)]
}
