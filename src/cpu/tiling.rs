//! How a problem is cut into blocks. Blocks decide who computes a result and where its operands lie, never the order of a sum.

use std::ops::Range;

use super::threads;

/// Cuts `0..len` into as few ranges of at most `most` as will do, all of nearly the same length: the last tile of a row costs
/// as much as its neighbours, however few columns are left for it.
pub fn balanced(len: usize, most: usize) -> impl ExactSizeIterator<Item = Range<usize>> + Clone {
    let parts = len.div_ceil(most);
    (0..parts).map(move |part| part * len / parts..(part + 1) * len / parts)
}

/// Tasks that keep every thread busy to the end although some run slower; one where the work is too small for threads.
pub fn wanted_tasks(work: usize) -> usize {
    if threads::is_small(work) { 1 } else { 4 * threads::count() }
}

/// One rectangle of a row-major result: a slice of each of its rows.
pub struct Tile<'a, T> {
    /// The rows of the result that it covers.
    pub rows: Range<usize>,
    /// The columns.
    pub columns: Range<usize>,
    /// The part of each row.
    pub pieces: Vec<&'a mut [T]>,
}

/// Cuts a row-major `result` with `columns` columns into rectangles of at most `row_block` by `column_block`.
pub fn tiles<T>(result: &mut [T], columns: usize, row_block: usize, column_block: usize) -> Vec<Tile<'_, T>> {
    if result.is_empty() {
        return Vec::new();
    }
    let rows = result.len() / columns;
    let mut tiles: Vec<Tile<'_, T>> = Vec::new();
    let mut remaining = result.chunks_exact_mut(columns);
    for rows in balanced(rows, row_block) {
        let first = tiles.len();
        for start in (0..columns).step_by(column_block) {
            let columns = start..columns.min(start + column_block);
            tiles.push(Tile { rows: rows.clone(), columns, pieces: Vec::with_capacity(rows.len()) });
        }
        for row in remaining.by_ref().take(rows.len()) {
            for (tile, piece) in tiles[first..].iter_mut().zip(row.chunks_mut(column_block)) {
                tile.pieces.push(piece);
            }
        }
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balanced_ranges_cover_everything_once_and_differ_by_one_at_most() {
        for (len, most) in [(0, 14), (1, 14), (14, 14), (15, 14), (128, 14), (333, 6)] {
            let ranges: Vec<_> = balanced(len, most).collect();
            assert_eq!(ranges.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..len).collect::<Vec<_>>());
            let lengths = ranges.iter().map(Range::len);
            assert!(lengths.clone().max() <= Some(most) && lengths.clone().max() <= lengths.min().map(|least| least + 1));
        }
    }

    #[test]
    fn tiles_cover_every_element_once() {
        let mut result: Vec<usize> = (0..7 * 11).collect();
        let mut seen = vec![0; result.len()];
        for tile in tiles(&mut result, 11, 3, 4) {
            assert_eq!(tile.pieces.len(), tile.rows.len());
            for (row, piece) in tile.rows.zip(tile.pieces) {
                let wanted: Vec<usize> = tile.columns.clone().map(|column| row * 11 + column).collect();
                assert_eq!(*piece, wanted);
                wanted.iter().for_each(|&at| seen[at] += 1);
            }
        }
        assert!(seen.iter().all(|&count| count == 1));
    }
}
