//! Few tokens: every byte of a row looks up the sum of its five inputs, for some tokens at once.
//!
//! For each byte of a row there are 243 sums that its five trits can make of its five inputs. They are tabled for `LANES` tokens
//! side by side, so a packed byte is an index as it stands: five weights cost one look-up and one addition, whatever the group
//! size, and no index can leave a table. The tables of a few bytes stay in the cache while all rows of a task pass over them.
//! Rows lie far apart, often at a power of two, so the bytes and scales of some segments are first copied side by side.

use std::ops::Range;

use crate::cpu::isa::{Loop, Tier, copy_column, prefetch, vectorise};
use crate::cpu::scratch::Scratch;
use crate::cpu::tiling::{Tile, balanced, tiles};
use crate::cpu::{cache, threads};
use crate::float::Activation;
use crate::trits::{GroupLayout, TRITS_PER_BYTE, TernaryMatrix};

/// Entries of a table; those past 242 belong to no packed byte and hold anything finite.
const SUMS: usize = 256;
/// Bytes of a row whose tables exist at a time.
const BYTES: usize = 8;
/// Segments whose bytes and scales are copied at a time.
const SEGMENTS: usize = 8;
/// Rows that are copied together.
const ROWS: usize = 16;
/// Rows between those that are copied and those that are fetched.
const AHEAD: usize = 32;
/// Elements between the copies of two segments beyond their length, so that they spread over the sets of a cache.
const GAP: usize = 16;

/// The tables of all bytes of a segment, one after the other.
type Tables<const LANES: usize> = [[f32; LANES]; BYTES * SUMS];

/// The product for up to `LANES` tokens; see [`super::matmul`].
pub fn matmul<const LANES: usize, X: Activation, Y: Activation>(
    tier: Tier,
    x: &[X],
    matrix: TernaryMatrix<'_>,
    scale: &[f32],
    y: &mut [Y],
) {
    let out_dim = matrix.out_dim();
    let tokens = y.len() / out_dim;
    assert!(tokens <= LANES, "{tokens} tokens in {LANES} lanes");
    let slots = segments(matrix.layout()).map(|segment| segment.groups.len()).max().unwrap_or(1);
    let most_rows = cache::sizes().l2 * 3 / 4 / (SEGMENTS * (BYTES + size_of::<f32>() * slots) + size_of::<f32>() * LANES);
    let work = x.len() * out_dim;
    let rows = out_dim.div_ceil(threads::wanted(work)).clamp(1, most_rows);
    log::debug!("matmul: bytes on {}, {LANES} lanes, {tokens} tokens, blocks of {rows} rows, {} threads", tier.name(), threads::count());
    threads::for_each(tiles(y, out_dim, tokens, rows).into_iter(), work, |task| {
        let rows = task.columns.len();
        let stride = Stride { bytes: 2 * rows + GAP, scales: slots * rows + GAP };
        let lengths = [BYTES * SUMS * LANES, rows * LANES, rows, SEGMENTS * stride.scales];
        let bytes_len = SEGMENTS * stride.bytes;
        let mut memory = Scratch::new(lengths.into_iter().chain([bytes_len]));
        let mut memory = memory.cut();
        let [bytes] = memory.slices([bytes_len]);
        let [tables, sums, lane, scales] = memory.slices(lengths);
        let product = Product { x, matrix, scale };
        vectorise(tier, Task::<LANES, X, Y> { product, task, stride, bytes, scales, tables, sums, lane });
    });
}

/// Elements from the copy of one segment to that of the next.
struct Stride {
    bytes: usize,
    scales: usize,
}

/// Bytes of a row that are looked up together: some bytes of one group, or all bytes of a few small ones.
struct Segment {
    groups: Range<usize>,
    /// The bytes of each group, counted from its start.
    bytes: Range<usize>,
}

/// The segments of a row, in order.
fn segments(layout: GroupLayout) -> impl Iterator<Item = Segment> {
    let (groups, bytes) = (layout.groups(), layout.group_bytes());
    let groups_at_once = (BYTES / bytes).max(1);
    (0..groups).step_by(groups_at_once).flat_map(move |first| {
        let groups = first..groups.min(first + groups_at_once);
        balanced(bytes, BYTES).map(move |bytes| Segment { groups: groups.clone(), bytes })
    })
}

/// The operands of a product for up to `LANES` tokens.
struct Product<'a, const LANES: usize, X> {
    x: &'a [X],
    matrix: TernaryMatrix<'a>,
    scale: &'a [f32],
}

/// The product for some rows, and its memory.
struct Task<'a, 'b, const LANES: usize, X, Y> {
    product: Product<'a, LANES, X>,
    task: Tile<'b, Y>,
    stride: Stride,
    /// For each segment `[rows][2]`: the bytes of a row, the first one lowest.
    bytes: &'a mut [u32],
    /// For each segment `[rows][groups]`.
    scales: &'a mut [f32],
    tables: &'a mut [f32],
    /// `[rows][lanes]`.
    sums: &'a mut [f32],
    /// `[rows]`: the sums of one token.
    lane: &'a mut [f32],
}

impl<const LANES: usize, X: Activation, Y: Activation> Loop for Task<'_, '_, LANES, X, Y> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Self { product, mut task, stride, bytes, scales, tables, sums, lane } = self;
        let Some(tables) = tables.as_chunks_mut().0.first_chunk_mut() else { unreachable!("memory for the tables of a segment") };
        let sums = sums.as_chunks_mut::<LANES>().0;
        sums.as_flattened_mut().fill(0.0);
        let segments: Vec<Segment> = segments(product.matrix.layout()).collect();
        for segments in segments.chunks(SEGMENTS) {
            product.copy_rows(segments, task.columns.clone(), &stride, bytes, scales);
            for ((segment, bytes), scales) in segments.iter().zip(bytes.chunks(stride.bytes)).zip(scales.chunks(stride.scales)) {
                product.tabulate(segment, tables);
                let bytes = bytes.as_chunks::<2>().0;
                match segment.bytes.len() {
                    1 => add::<LANES, 1, 8>(segment, bytes, scales, tables, sums),
                    2 => add::<LANES, 2, 4>(segment, bytes, scales, tables, sums),
                    3 => add::<LANES, 3, 2>(segment, bytes, scales, tables, sums),
                    4 => add::<LANES, 4, 2>(segment, bytes, scales, tables, sums),
                    5 => add::<LANES, 5, 1>(segment, bytes, scales, tables, sums),
                    6 => add::<LANES, 6, 1>(segment, bytes, scales, tables, sums),
                    7 => add::<LANES, 7, 1>(segment, bytes, scales, tables, sums),
                    _ => add::<LANES, BYTES, 1>(segment, bytes, scales, tables, sums),
                }
            }
        }
        for (token, piece) in task.pieces.iter_mut().enumerate() {
            for (to, from) in lane.iter_mut().zip(&*sums) {
                *to = from[token];
            }
            Y::narrow(lane, piece);
        }
    }
}

impl<const LANES: usize, X: Activation> Product<'_, LANES, X> {
    /// Copies the bytes and scales of some rows for some segments.
    #[inline(always)]
    fn copy_rows(&self, segments: &[Segment], rows: Range<usize>, stride: &Stride, bytes: &mut [u32], scales: &mut [f32]) {
        let layout = self.matrix.layout();
        let (all, row_bytes, groups, group_bytes) = (self.matrix.bytes(), layout.row_bytes(), layout.groups(), layout.group_bytes());
        let (first, last) = (&segments[0], &segments[segments.len() - 1]);
        let bytes_read = first.groups.start * group_bytes + first.bytes.start..(last.groups.end - 1) * group_bytes + last.bytes.end;
        let groups_read = first.groups.start..last.groups.end;
        for start in rows.clone().step_by(ROWS) {
            let (place, count) = (start - rows.start, ROWS.min(rows.end - start));
            for row in start + AHEAD..rows.end.min(start + AHEAD + ROWS) {
                prefetch(&all[row * row_bytes..][bytes_read.clone()]);
                prefetch(&self.scale[row * groups..][groups_read.clone()]);
            }
            for (index, segment) in segments.iter().enumerate() {
                let at = start * row_bytes + segment.groups.start * group_bytes + segment.bytes.start;
                let to = &mut bytes[index * stride.bytes + 2 * place..].as_chunks_mut::<2>().0[..count];
                // Words of the last rows may end beyond the bytes.
                let whole = count.min((all.len() + row_bytes).saturating_sub(at + BYTES) / row_bytes);
                let (to, rest) = to.split_at_mut(whole);
                copy_column(all, at, row_bytes, to);
                for (row, to) in rest.iter_mut().enumerate() {
                    let mut word = [0; BYTES];
                    let bytes = &all[at + (whole + row) * row_bytes..];
                    word[..bytes.len()].copy_from_slice(bytes);
                    *to = [0, 1].map(|half| u32::from_ne_bytes(*word.as_chunks().0[half..].first().unwrap_or(&[0; 4])));
                }
                let (slots, at) = (segment.groups.len(), start * groups + segment.groups.start);
                let to = &mut scales[index * stride.scales + slots * place..][..slots * count];
                if slots == 1 {
                    copy_column(self.scale, at, groups, to);
                    continue;
                }
                for (row, to) in to.chunks_exact_mut(slots).enumerate() {
                    to.copy_from_slice(&self.scale[at + row * groups..][..slots]);
                }
            }
        }
    }

    /// Fills the tables of a segment.
    #[inline(always)]
    fn tabulate(&self, segment: &Segment, tables: &mut Tables<LANES>) {
        let layout = self.matrix.layout();
        let mut tables = tables.as_chunks_mut().0.iter_mut();
        for group in segment.groups.clone() {
            let start = group * layout.group_size();
            let end = start + layout.group_len(group);
            for (byte, table) in segment.bytes.clone().zip(&mut tables) {
                let first = (start + byte * TRITS_PER_BYTE).min(end);
                tabulate_byte(&self.inputs(first..end.min(first + TRITS_PER_BYTE)), table);
            }
        }
    }

    /// Up to five inputs of every token; a lane without a token and an input past the last one are 0.
    #[inline(always)]
    fn inputs(&self, range: Range<usize>) -> [[f32; LANES]; TRITS_PER_BYTE] {
        let mut inputs = [[0.0; LANES]; TRITS_PER_BYTE];
        for (lane, x) in self.x.chunks_exact(self.matrix.layout().in_dim()).enumerate() {
            for (input, x) in inputs.iter_mut().zip(&x[range.clone()]) {
                input[lane] = x.to_f32();
            }
        }
        inputs
    }
}

/// Adds a segment, `COUNT` bytes of each of up to `GROUPS` groups, to the sums of some rows.
#[inline(always)]
fn add<const LANES: usize, const COUNT: usize, const GROUPS: usize>(
    segment: &Segment,
    bytes: &[[u32; 2]],
    scales: &[f32],
    tables: &Tables<LANES>,
    sums: &mut [[f32; LANES]],
) {
    const { assert!(COUNT * GROUPS <= BYTES) };
    if segment.groups.len() == GROUPS {
        for ((bytes, scales), sum) in bytes.iter().zip(scales.as_chunks::<GROUPS>().0).zip(sums) {
            let word = u64::from(bytes[0]) | u64::from(bytes[1]) << 32;
            let mut total = *sum;
            for (group, &scale) in scales.iter().enumerate() {
                add_group::<LANES, COUNT>(word, group, tables, scale, &mut total);
            }
            *sum = total;
        }
    } else {
        for ((bytes, scales), sum) in bytes.iter().zip(scales.chunks_exact(segment.groups.len())).zip(sums) {
            let word = u64::from(bytes[0]) | u64::from(bytes[1]) << 32;
            for (group, &scale) in scales.iter().enumerate() {
                add_group::<LANES, COUNT>(word, group, tables, scale, sum);
            }
        }
    }
}

/// Adds the sums that the bytes of group `group` of a word look up, times the scale of the group.
#[inline(always)]
fn add_group<const LANES: usize, const COUNT: usize>(
    word: u64,
    group: usize,
    tables: &Tables<LANES>,
    scale: f32,
    total: &mut [f32; LANES],
) {
    let entry = |place: usize| {
        let place = (group * COUNT + place) % BYTES;
        &tables[place * SUMS + usize::from((word >> (8 * place)) as u8)]
    };
    let mut partial = *entry(0);
    for place in 1..COUNT {
        partial = each(&partial, entry(place), |sum, entry| sum + entry);
    }
    *total = each(total, &partial, |total, partial| total + scale * partial);
}

#[inline(always)]
fn each<const LANES: usize>(a: &[f32; LANES], b: &[f32; LANES], operation: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut result = [0.0; LANES];
    for lane in 0..LANES {
        result[lane] = operation(a[lane], b[lane]);
    }
    result
}

/// The sums of five inputs with all coefficients -1, 0 and 1, the first one's fastest.
#[inline(always)]
fn tabulate_byte<const LANES: usize>(inputs: &[[f32; LANES]; TRITS_PER_BYTE], table: &mut [[f32; LANES]; SUMS]) {
    table[0] = [0.0; LANES];
    let mut count = 1;
    for input in inputs {
        let (zeros, others) = table[..3 * count].split_at_mut(count);
        let (middle, last) = others.split_at_mut(count);
        for ((zero, middle), last) in zeros.iter_mut().zip(middle).zip(last) {
            *middle = *zero;
            for (lane, input) in input.iter().enumerate() {
                (zero[lane], last[lane]) = (middle[lane] - input, middle[lane] + input);
            }
        }
        count *= 3;
    }
    table[count..].fill([0.0; LANES]);
}
