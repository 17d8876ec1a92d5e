//! Panels of weight rows times many rows of activations: what is the same for every instruction set.

use std::ops::Range;

use super::activations::{Activations, CELL, Cells};
use super::prefetch::prefetch;
use crate::tensor::quantized::{QuantizedFormat, QuantizedView};

/// Weight rows of a panel.
pub(super) const PANEL: usize = 32;
/// Groups of 32 elements laid out at a time: a cell of activations.
pub(super) const GROUPS: usize = CELL / 32;

/// Products of an instruction set. Its functions may only be called where the processor has the instructions.
pub(super) trait PanelKernel {
    /// Rows of activations multiplied at once.
    const COLUMNS: usize;
    /// `GROUPS` groups of `PANEL` weight rows, laid out.
    type Tile;

    fn tile() -> Self::Tile;

    /// Lays out groups `8 at` to `8 at + count` of up to `PANEL` weight rows.
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn lay_out(tile: &mut Self::Tile, w: QuantizedView<'_>, at: usize, count: usize);

    /// Adds the products of a tile with cells, `columns` at once, to `sums` (cells, `PANEL`).
    ///
    /// # Safety
    /// The processor must have the instructions.
    unsafe fn add(
        tile: &Self::Tile,
        format: QuantizedFormat,
        columns: usize,
        cells: Cells<'_>,
        sums: &mut [f32],
        ahead: &mut Ahead<'_>,
    );
}

/// Asks for the weights of the next tile while this one is multiplied: its rows lie far apart, and a processor does not
/// guess them.
pub(super) struct Ahead<'a> {
    w: QuantizedView<'a>,
    offset: usize,
    bytes: usize,
    row: usize,
    step: usize,
}

impl<'a> Ahead<'a> {
    /// For cell `at` of the weight rows, in `parts` parts.
    fn new(w: QuantizedView<'a>, at: usize, parts: usize) -> Self {
        let bytes = GROUPS * 32 / w.format().block_len() * w.format().block_bytes();
        let offset = at * bytes;
        Self {
            w,
            offset,
            bytes: bytes.min(w.row_bytes().saturating_sub(offset)),
            row: 0,
            step: w.rows().div_ceil(parts.max(1)),
        }
    }

    /// Asks for the next part.
    #[inline(always)]
    pub(super) fn ask(&mut self) {
        for _ in 0..self.step {
            if self.row == self.w.rows() || self.bytes == 0 {
                return;
            }
            let start = self.row * self.w.row_bytes() + self.offset;
            prefetch(&self.w.bytes()[start..start + self.bytes]);
            self.row += 1;
        }
    }
}

/// Adds the products of up to `PANEL` weight rows with rows of activations to `sums`, (activation rows, `PANEL`).
///
/// # Safety
/// The processor must have the instructions of `K`.
pub(super) unsafe fn multiply<K: PanelKernel>(
    w: QuantizedView<'_>,
    x: &Activations,
    columns: Range<usize>,
    sums: &mut [f32],
) {
    assert!(sums.len() == columns.len() * PANEL && w.rows() <= PANEL);
    let mut tile = K::tile();
    let groups = w.width() / 32;
    let middle = columns.start + columns.len() / K::COLUMNS * K::COLUMNS;
    let (whole, rest) = sums.split_at_mut((middle - columns.start) * PANEL);
    for at in 0..groups.div_ceil(GROUPS) {
        let mut ahead = Ahead::new(w, at + 1, columns.len().div_ceil(K::COLUMNS));
        // SAFETY: by the contract of this function.
        unsafe { K::lay_out(&mut tile, w, at, GROUPS.min(groups - at * GROUPS)) };
        let parts = [
            (K::COLUMNS, columns.start..middle, &mut *whole),
            (columns.end - middle, middle..columns.end, &mut *rest),
        ];
        for (count, rows, sums) in parts {
            if !rows.is_empty() {
                // SAFETY: as above.
                unsafe { K::add(&tile, w.format(), count, x.cells_of(at, rows), sums, &mut ahead) };
            }
        }
    }
}
