//! The product of few tokens with rows in lanes: 16 rows look up the sums of three and of two inputs in registers.
//!
//! A dword lane belongs to one row and holds four of its bytes. Multiplications split a byte into its high three digits (0..27)
//! and the low two, which index the sums of the byte's five inputs in one two-register and one one-register permutation. Rows are
//! taken in the order of memory, some at a time, and the next ones are fetched line by line meanwhile: out of memory, that
//! decides the time. Bytes and scales of four groups are turned into lanes while those of the four before are looked up.

use std::arch::x86_64::*;
use std::ops::Range;

use super::byte_sums::{BYTE_SUMS, HIGH_SUMS, LANES, NINTH, SEVEN_NINTHS, table_len, tables};
use crate::cpu::cache;
use crate::cpu::isa::forward::Decode;
use crate::cpu::tiling::balanced;
use crate::trits::{GroupLayout, TRITS_PER_BYTE, TernaryMatrix};

/// Bytes of a lane.
const WORD: usize = 4;
/// Bytes of a row that are loaded together, and the most bytes of a segment.
const LOAD: usize = 16;
/// Segments of a quad, one of each of four neighbouring groups.
const QUAD: usize = 4;
/// The most tokens that share a pass.
const TOKENS: usize = 2;
/// Registers of rows that share a pass.
const SETS: usize = 2;
/// Rows of a pass.
const ROWS: usize = SETS * LANES;

/// The AVX-512 product of few tokens.
pub static DECODE: Decode = Decode { name: "avx512 decode", tokens_at_once: TOKENS, table_len, tables, rows };

/// Some groups of every row, or the same part of each: segments of equal length, four of which make a quad.
struct Run {
    groups: Range<usize>,
    group_bytes: usize,
    /// The bytes of a group that make a segment.
    bytes: Range<usize>,
    /// Whether only the low two digits of the last byte of a segment matter.
    half: bool,
    /// Loads of a quad, and dwords of a segment: 1, 2 or 4.
    loads: usize,
    /// For each byte of a load the byte of the row that it takes, so that every segment starts at a dword.
    spread: [i8; LOAD],
}

impl Run {
    /// The runs that cover some groups.
    fn all(layout: GroupLayout, groups: Range<usize>) -> impl Iterator<Item = Run> {
        let group_bytes = layout.group_bytes();
        let half = (layout.group_len(0) - 1) % TRITS_PER_BYTE < 2;
        balanced(group_bytes, LOAD).map(move |bytes| {
            let loads = group_bytes.div_ceil(WORD).next_power_of_two().min(LOAD / WORD);
            let spread = std::array::from_fn(|byte| {
                let (segment, position) = (byte / (WORD * loads), byte % (WORD * loads));
                if position < bytes.len() { (segment * group_bytes + position) as i8 } else { -1 }
            });
            Run { groups: groups.clone(), group_bytes, half: half && bytes.end == group_bytes, bytes, loads, spread }
        })
    }

    fn quads(&self) -> usize {
        self.groups.len().div_ceil(QUAD)
    }
}

fn rows(matrix: TernaryMatrix<'_>, scale: &[f32], rows: Range<usize>, tables: &[f32], sums: &mut [f32]) {
    let layout = matrix.layout();
    let tokens = sums.len() / rows.len().max(1);
    assert!(rows.end <= matrix.out_dim() && scale.len() == matrix.out_dim() * layout.groups(), "rows and scales of the matrix");
    assert!(tables.len() >= tokens * table_len(layout), "tables of every token");
    sums.fill(0.0);
    // The tables of a stretch of groups stay in the L2 cache while all rows pass over them.
    let quad_tables = tokens * QUAD * layout.group_bytes() * BYTE_SUMS * size_of::<f32>();
    let stretch = (cache::sizes().l2 / 2).checked_div(quad_tables).unwrap_or(1).max(1);
    for quads in balanced(layout.groups().div_ceil(QUAD), stretch) {
        let groups = quads.start * QUAD..layout.groups().min(quads.end * QUAD);
        let product = Product { matrix, scale, tables, groups: groups.clone(), runs: Run::all(layout, groups).collect() };
        match tokens {
            1 => product.add_rows::<1>(rows.clone(), sums),
            TOKENS => product.add_rows::<TOKENS>(rows.clone(), sums),
            _ => unreachable!("1 to {TOKENS} tokens at once"),
        }
    }
}

/// The operands of a product over some groups, measured by [`rows`].
struct Product<'a> {
    matrix: TernaryMatrix<'a>,
    scale: &'a [f32],
    tables: &'a [f32],
    groups: Range<usize>,
    runs: Vec<Run>,
}

/// [`ROWS`] neighbouring rows with [`LOAD`] bytes and [`QUAD`] scales after the last one.
#[derive(Clone, Copy)]
struct Rows<'a> {
    bytes: &'a [u8],
    scale: &'a [f32],
}

impl Product<'_> {
    /// Adds the product of some rows to the sums `[TOKENS, rows]`.
    fn add_rows<const TOKENS: usize>(&self, rows: Range<usize>, sums: &mut [f32]) {
        let layout = self.matrix.layout();
        let (row_bytes, groups, bytes) = (layout.row_bytes(), layout.groups(), self.matrix.bytes());
        for start in rows.clone().step_by(ROWS) {
            let count = ROWS.min(rows.end - start);
            let (bytes, scale) = (&bytes[start * row_bytes..], &self.scale[start * groups..]);
            let mut total = [[[0.0; LANES]; SETS]; TOKENS];
            if bytes.len() >= ROWS * row_bytes + LOAD && scale.len() >= ROWS * groups + QUAD {
                self.add_runs(Rows { bytes, scale }, &mut total);
            } else {
                // The last rows, with room after them.
                let mut padded = (vec![0; ROWS * row_bytes + LOAD], vec![0.0; ROWS * groups + QUAD]);
                padded.0[..count * row_bytes].copy_from_slice(&bytes[..count * row_bytes]);
                padded.1[..count * groups].copy_from_slice(&scale[..count * groups]);
                self.add_runs(Rows { bytes: &padded.0, scale: &padded.1 }, &mut total);
            }
            for (sums, total) in sums.chunks_exact_mut(rows.len()).zip(&total) {
                for (sum, total) in sums[start - rows.start..][..count].iter_mut().zip(total.as_flattened()) {
                    *sum += total;
                }
            }
        }
    }

    fn add_runs<const TOKENS: usize>(&self, rows: Rows<'_>, total: &mut [[[f32; LANES]; SETS]; TOKENS]) {
        let mut fetch = self.fetch(rows);
        for run in &self.runs {
            // SAFETY: the rows have room after them, and the table with this function is handed out only where the machine has the
            // tier.
            unsafe {
                match run.loads {
                    1 => self.add_run_of::<TOKENS, 1>(run, rows, &mut fetch, total),
                    2 => self.add_run_of::<TOKENS, 2>(run, rows, &mut fetch, total),
                    _ => self.add_run_of::<TOKENS, 4>(run, rows, &mut fetch, total),
                }
            }
        }
    }

    /// # Safety
    /// As [`add_run`](Self::add_run).
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    unsafe fn add_run_of<const TOKENS: usize, const LOADS: usize>(
        &self,
        run: &Run,
        rows: Rows<'_>,
        fetch: &mut [Fetch; 2],
        total: &mut [[[f32; LANES]; SETS]; TOKENS],
    ) {
        let whole = run.bytes.len() - usize::from(run.half);
        // SAFETY: the caller's promise is the callee's.
        unsafe {
            match (whole % WORD, run.half) {
                (0, false) => self.add_run::<TOKENS, LOADS, 0, false>(run, rows, fetch, total),
                (1, false) => self.add_run::<TOKENS, LOADS, 1, false>(run, rows, fetch, total),
                (2, false) => self.add_run::<TOKENS, LOADS, 2, false>(run, rows, fetch, total),
                (_, false) => self.add_run::<TOKENS, LOADS, 3, false>(run, rows, fetch, total),
                (0, true) => self.add_run::<TOKENS, LOADS, 0, true>(run, rows, fetch, total),
                (1, true) => self.add_run::<TOKENS, LOADS, 1, true>(run, rows, fetch, total),
                (2, true) => self.add_run::<TOKENS, LOADS, 2, true>(run, rows, fetch, total),
                (_, true) => self.add_run::<TOKENS, LOADS, 3, true>(run, rows, fetch, total),
            }
        }
    }

    /// What to fetch for the rows after `rows`.
    fn fetch(&self, rows: Rows<'_>) -> [Fetch; 2] {
        let layout = self.matrix.layout();
        let steps = QUAD * self.runs.iter().map(Run::quads).sum::<usize>();
        let (groups, float) = (layout.groups(), size_of::<f32>());
        let (row_bytes, group_bytes) = (layout.row_bytes(), layout.group_bytes());
        let bytes = rows.bytes.as_ptr().wrapping_add(ROWS * row_bytes + self.groups.start * group_bytes);
        let scales = rows.scale.as_ptr().wrapping_add(ROWS * groups + self.groups.start).cast();
        [
            Fetch::new(bytes, row_bytes, self.groups.len() * group_bytes, steps),
            Fetch::new(scales, groups * float, self.groups.len() * float, steps),
        ]
    }

    /// Adds what a run of every row gives: segments of whole dwords, `TAIL` whole bytes and, with `HALF`, a byte of which only the
    /// low two digits matter.
    ///
    /// # Safety
    /// The rows have room after them, and there are tables for all tokens.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    unsafe fn add_run<const TOKENS: usize, const LOADS: usize, const TAIL: usize, const HALF: bool>(
        &self,
        run: &Run,
        rows: Rows<'_>,
        fetch: &mut [Fetch; 2],
        total: &mut [[[f32; LANES]; SETS]; TOKENS],
    ) {
        let layout = self.matrix.layout();
        let (row_bytes, count, group_bytes) = (layout.row_bytes(), run.groups.len(), run.group_bytes);
        // SAFETY: `spread` has 16 bytes.
        let spread = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(run.spread.as_ptr().cast()) });
        let bytes = rows.bytes.as_ptr().wrapping_add(run.groups.start * group_bytes + run.bytes.start);
        let scales = rows.scale.as_ptr().wrapping_add(run.groups.start);
        let fill = Fill::<LOADS> { bytes, row_bytes, scales, groups: layout.groups(), spread, group_bytes };
        let table = self.tables.as_ptr().wrapping_add((run.groups.start * group_bytes + run.bytes.start) * BYTE_SUMS);
        let whole_words = (run.bytes.len() - usize::from(HALF)) / WORD;
        let look_up = LookUp::<LOADS, TAIL, HALF> { whole_words, table, group_bytes, table_len: row_bytes * BYTE_SUMS };
        let mut lanes = [const { Quad::new() }; 2];
        let mut sums = [[_mm512_setzero_ps(); SETS]; TOKENS];
        let [mut fetch_bytes, mut fetch_scales] = *fetch;
        // One step of a quad: a quarter of the next quad becomes lanes, and one segment is looked up.
        macro_rules! step {
            ($step:literal, $first:expr, $now:expr, $next:expr) => {
                fetch_bytes.step();
                fetch_scales.step();
                // SAFETY: the caller's promise.
                unsafe {
                    fill.step::<$step>($next, $first + QUAD, count);
                    if $first + $step < count {
                        look_up.add::<TOKENS, $step>($now, $first + $step, &mut sums);
                    }
                }
            };
        }
        // SAFETY: the caller's promise.
        unsafe {
            fill.step::<0>(&mut lanes[0], 0, count);
            fill.step::<1>(&mut lanes[0], 0, count);
            fill.step::<2>(&mut lanes[0], 0, count);
            fill.step::<3>(&mut lanes[0], 0, count);
        }
        let [mut now, mut next] = lanes.each_mut();
        for first in (0..count).step_by(QUAD) {
            step!(0, first, now, next);
            step!(1, first, now, next);
            step!(2, first, now, next);
            step!(3, first, now, next);
            std::mem::swap(&mut now, &mut next);
        }
        *fetch = [fetch_bytes, fetch_scales];
        for (total, sums) in total.iter_mut().zip(sums) {
            for (total, sum) in total.iter_mut().zip(sums) {
                // SAFETY: 16 floats.
                unsafe { _mm512_storeu_ps(total.as_mut_ptr(), _mm512_add_ps(_mm512_loadu_ps(total.as_ptr()), sum)) };
            }
        }
    }
}

/// Lines to fetch, a few at every step, row by row in each half of the rows: the order of memory at two places, since the
/// processor follows every such place by itself. Addresses outside of the operands do no harm.
#[derive(Clone, Copy)]
struct Fetch {
    row: *const u8,
    row_bytes: usize,
    /// Bytes from the start of the row.
    at: usize,
    end: usize,
    lines_of_step: usize,
}

impl Fetch {
    const LINE: usize = 64;

    /// `bytes` of each of [`ROWS`] rows from `first` on in `steps` steps.
    fn new(first: *const u8, row_bytes: usize, bytes: usize, steps: usize) -> Self {
        // Whole rows are one.
        let (end, rows) = if bytes == row_bytes { (ROWS / 2 * bytes, 1) } else { (bytes + Self::LINE, ROWS / 2) };
        let lines_of_step = (rows * end.div_ceil(Self::LINE)).div_ceil(steps.max(1));
        Self { row: first, row_bytes, at: 0, end, lines_of_step }
    }

    #[inline(always)]
    fn step(&mut self) {
        for _ in 0..self.lines_of_step {
            let line = self.row.wrapping_add(self.at);
            // SAFETY: a prefetch has no effect but on caches.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(line.cast());
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(ROWS / 2 * self.row_bytes).cast());
            }
            self.at += Self::LINE;
            if self.at >= self.end {
                (self.at, self.row) = (0, self.row.wrapping_add(self.row_bytes));
            }
        }
    }
}

/// Dwords and scales of the segments of a quad, a row per lane.
struct Quad {
    words: [[__m512i; LOAD]; SETS],
    scales: [[__m512i; QUAD]; SETS],
}

impl Quad {
    const fn new() -> Self {
        // SAFETY: all bits zero are a register.
        let zero = unsafe { std::mem::zeroed() };
        Self { words: [[zero; LOAD]; SETS], scales: [[zero; QUAD]; SETS] }
    }
}

/// How the rows of a run become lanes.
struct Fill<const LOADS: usize> {
    bytes: *const u8,
    row_bytes: usize,
    scales: *const f32,
    groups: usize,
    spread: __m512i,
    group_bytes: usize,
}

impl<const LOADS: usize> Fill<LOADS> {
    /// A quarter of the work for the quad from segment `first` on of `count`.
    ///
    /// # Safety
    /// The rows have room after them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    unsafe fn step<const STEP: usize>(&self, quad: &mut Quad, first: usize, count: usize) {
        if STEP.is_multiple_of(QUAD / LOADS) && first + STEP < count {
            for set in 0..SETS {
                let at = self.bytes.wrapping_add((first + STEP) * self.group_bytes + set * LANES * self.row_bytes);
                // SAFETY: the caller's promise.
                let mut rows = unsafe { rows_in_fours(at, self.row_bytes) };
                for row in &mut rows {
                    *row = _mm512_shuffle_epi8(*row, self.spread);
                }
                let columns = columns(rows);
                for (word, column) in columns.into_iter().enumerate() {
                    quad.words[set][STEP * LOADS % LOAD + word] = column;
                }
            }
        }
        if STEP % 2 == 1 && first < count {
            let set = STEP / 2;
            let at = self.scales.wrapping_add(first + set * LANES * self.groups);
            // SAFETY: as above.
            quad.scales[set] = columns(unsafe { rows_in_fours(at.cast(), self.groups * size_of::<f32>()) });
        }
    }
}

/// How the segments of a run are looked up.
struct LookUp<const LOADS: usize, const TAIL: usize, const HALF: bool> {
    whole_words: usize,
    /// The tables of the first segment, for the first token.
    table: *const f32,
    group_bytes: usize,
    table_len: usize,
}

impl<const LOADS: usize, const TAIL: usize, const HALF: bool> LookUp<LOADS, TAIL, HALF> {
    /// Adds segment `segment`, the `STEP`th one of a quad, to the sums of every token.
    ///
    /// # Safety
    /// There are tables for all tokens.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
    unsafe fn add<const TOKENS: usize, const STEP: usize>(&self, quad: &Quad, segment: usize, sums: &mut [[__m512; SETS]; TOKENS]) {
        let mut table = self.table.wrapping_add(segment * self.group_bytes * BYTE_SUMS);
        let mut partial = [[[_mm512_setzero_ps(); 2]; SETS]; TOKENS];
        let words = |word: usize| [quad.words[0][(STEP * LOADS + word) % LOAD], quad.words[1][(STEP * LOADS + word) % LOAD]];
        for word in 0..self.whole_words {
            // SAFETY: the tables of a token go on for the bytes of its row.
            unsafe { add_word::<TOKENS, WORD, false>(words(word), table, self.table_len, &mut partial) };
            table = table.wrapping_add(WORD * BYTE_SUMS);
        }
        if TAIL > 0 || HALF {
            // SAFETY: as above.
            unsafe { add_word::<TOKENS, TAIL, HALF>(words(self.whole_words), table, self.table_len, &mut partial) };
        }
        for (sums, partial) in sums.iter_mut().zip(partial) {
            for set in 0..SETS {
                let [high, low] = partial[set];
                sums[set] = _mm512_fmadd_ps(_mm512_add_ps(high, low), _mm512_castsi512_ps(quad.scales[set][STEP]), sums[set]);
            }
        }
    }
}

/// 16 bytes from `first` on of each of 16 rows, `row_bytes` apart: rows `r`, `r + 4`, `r + 8` and `r + 12` in register `r`.
///
/// # Safety
/// They exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
unsafe fn rows_in_fours(first: *const u8, row_bytes: usize) -> [__m512i; QUAD] {
    let mut rows = [_mm512_setzero_si512(); QUAD];
    for (row, lanes) in rows.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *lanes = unsafe { four_rows(first.wrapping_add(row * row_bytes), QUAD * row_bytes) };
    }
    rows
}

/// 16 bytes from `first` of each of four rows that lie `stride` bytes apart.
///
/// # Safety
/// They exist.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
unsafe fn four_rows(first: *const u8, stride: usize) -> __m512i {
    // SAFETY: the caller's promise.
    let [a, b, c, d] = unsafe {
        [
            _mm_loadu_si128(first.cast()),
            _mm_loadu_si128(first.wrapping_add(stride).cast()),
            _mm_loadu_si128(first.wrapping_add(2 * stride).cast()),
            _mm_loadu_si128(first.wrapping_add(3 * stride).cast()),
        ]
    };
    // In two steps: insertions into 256 bits are cheaper than into 512.
    let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
    let high = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(c), d);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// The transposes of four by four dwords: column `c` of rows `r`, `r + 4`, `r + 8` and `r + 12` in register `r` goes to lanes in the
/// order of the rows in register `c`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn columns([a, b, c, d]: [__m512i; QUAD]) -> [__m512i; QUAD] {
    let (ab, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// Adds the inputs of the first `BYTES` bytes of a dword, and with `HALF` the first two of the next byte, to the sums of every
/// token: high threes to the first one, low twos to the second.
///
/// # Safety
/// `table` begins the tables of these bytes for the first token; those of the next lie `table_len` further.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
unsafe fn add_word<const TOKENS: usize, const BYTES: usize, const HALF: bool>(
    words: [__m512i; SETS],
    table: *const f32,
    table_len: usize,
    sums: &mut [[[__m512; 2]; SETS]; TOKENS],
) {
    let count = BYTES + usize::from(HALF);
    // Two bytes to a multiplication: those at even places, then those at odd ones.
    let (mut even, mut odd) = ([[_mm512_setzero_si512(); 2]; SETS], [[_mm512_setzero_si512(); 2]; SETS]);
    for (even, &word) in even.iter_mut().zip(&words) {
        *even = places(_mm512_and_si512(word, _mm512_set1_epi16(0xFF)));
    }
    // SAFETY: the caller vouches for the table.
    unsafe {
        add_byte(BYTES > 0, even, table, table_len, sums);
        if count > 1 {
            for (odd, &word) in odd.iter_mut().zip(&words) {
                *odd = places(odd_bytes(word));
            }
            add_byte(BYTES > 1, odd, table.add(BYTE_SUMS), table_len, sums);
        }
        if count > 2 {
            for even in &mut even {
                *even = upper_halves(*even);
            }
            add_byte(BYTES > 2, even, table.add(2 * BYTE_SUMS), table_len, sums);
        }
        if count > 3 {
            for odd in &mut odd {
                *odd = upper_halves(*odd);
            }
            add_byte(BYTES > 3, odd, table.add(3 * BYTE_SUMS), table_len, sums);
        }
    }
}

/// Adds the inputs of one byte, only the first two where it is not `whole`.
///
/// # Safety
/// As [`add_word`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
unsafe fn add_byte<const TOKENS: usize>(
    whole: bool,
    places: [[__m512i; 2]; SETS],
    table: *const f32,
    table_len: usize,
    sums: &mut [[[__m512; 2]; SETS]; TOKENS],
) {
    for (token, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller vouches for the table.
        let [first, second, low_sums] = unsafe {
            let table = table.add(token * table_len);
            [_mm512_loadu_ps(table), _mm512_loadu_ps(table.add(LANES)), _mm512_loadu_ps(table.add(HIGH_SUMS))]
        };
        for ([high_sum, low_sum], [high, low]) in sums.iter_mut().zip(places) {
            if whole {
                *high_sum = _mm512_add_ps(*high_sum, _mm512_permutex2var_ps(first, high, second));
            }
            *low_sum = _mm512_add_ps(*low_sum, _mm512_permutexvar_ps(low, low_sums));
        }
    }
}

/// For bytes in words, the places in the tables of the high three and of the low two digits; anything above the bits that count.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn places(bytes: __m512i) -> [__m512i; 2] {
    let high = _mm512_mulhi_epu16(bytes, _mm512_set1_epi16(NINTH as i16));
    let low = _mm512_add_epi16(bytes, _mm512_mulhi_epu16(bytes, _mm512_set1_epi16(SEVEN_NINTHS as i16)));
    [high, low]
}

/// The upper halves of dwords, by a multiplication: shifts share the execution ports of the permutations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn upper_halves(words: [__m512i; 2]) -> [__m512i; 2] {
    let one = _mm512_set1_epi32(1 << 16);
    [_mm512_madd_epi16(words[0], one), _mm512_madd_epi16(words[1], one)]
}

/// The upper bytes of words, by a multiplication too.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,popcnt")]
fn odd_bytes(words: __m512i) -> __m512i {
    _mm512_maddubs_epi16(words, _mm512_set1_epi16(1 << 8))
}
