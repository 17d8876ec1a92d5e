//! Rows cut out of tensors, joined, repeated and picked, on whichever device they are.

pub use crate::backend::card::RowLayout;
use crate::backend::cpu::for_row_blocks;
use crate::{Device, Real, Tensor};

impl RowLayout {
    /// Rows that begin at `offset` and lie `stride` apart.
    pub fn every(offset: usize, stride: usize) -> Self {
        Self { offset, strides: [0, 0, stride] }
    }
}

/// Copies `sizes` rows of `len` elements between places of two tensors.
///
/// # Panics
/// When a row leaves its tensor.
pub fn copy<T: Real>(
    to: (&mut Tensor<T>, RowLayout),
    from: (&Tensor<T>, RowLayout),
    sizes: [usize; 3],
    len: usize,
) {
    move_rows(to, from, sizes, len, false);
}

/// As [`copy`], adding.
///
/// # Panics
/// As [`copy`].
pub fn add<T: Real>(
    to: (&mut Tensor<T>, RowLayout),
    from: (&Tensor<T>, RowLayout),
    sizes: [usize; 3],
    len: usize,
) {
    move_rows(to, from, sizes, len, true);
}

fn move_rows<T: Real>(
    (to, to_layout): (&mut Tensor<T>, RowLayout),
    (from, from_layout): (&Tensor<T>, RowLayout),
    sizes: [usize; 3],
    len: usize,
    accumulate: bool,
) {
    if let Device::Card(card) = to.device() {
        let (to, from) = ((to.on_card_mut(), to_layout), (from.on_card(), from_layout));
        return card.copy(to, from, sizes, len, accumulate);
    }
    let (to, from) = (to.data_mut(), from.data());
    let at = |layout: RowLayout, [i, j, k]: [usize; 3]| {
        layout.offset + i * layout.strides[0] + j * layout.strides[1] + k * layout.strides[2]
    };
    for i in 0..sizes[0] {
        for j in 0..sizes[1] {
            for k in 0..sizes[2] {
                let (to_at, from_at) = (at(to_layout, [i, j, k]), at(from_layout, [i, j, k]));
                let (to, from) = (&mut to[to_at..to_at + len], &from[from_at..from_at + len]);
                if accumulate {
                    to.iter_mut().zip(from).for_each(|(to, &from)| *to += from);
                } else {
                    to.copy_from_slice(from);
                }
            }
        }
    }
}

/// Columns `first..first + width` of every row.
pub fn columns<T: Real>(x: &Tensor<T>, first: usize, width: usize) -> Tensor<T> {
    let mut part = Tensor::empty(&[x.rows(), width], x.device());
    let (own, all) = (RowLayout::every(0, width), RowLayout::every(first, x.width()));
    copy((&mut part, own), (x, all), [1, 1, x.rows()], width);
    part
}

/// The rows of all parts side by side.
///
/// # Panics
/// When the parts differ in their number of rows, or there are none.
pub fn side_by_side<T: Real>(parts: &[&Tensor<T>]) -> Tensor<T> {
    let (rows, width) = (parts[0].rows(), parts.iter().map(|part| part.width()).sum());
    let mut all = Tensor::empty(&[rows, width], parts[0].device());
    let mut first = 0;
    for part in parts {
        let (to, from) = (RowLayout::every(first, width), RowLayout::every(0, part.width()));
        copy((&mut all, to), (part, from), [1, 1, rows], part.width());
        first += part.width();
    }
    all
}

/// Adds `row` to every stretch of x that is as long.
pub fn add_to_each<T: Real>(x: &mut Tensor<T>, row: &Tensor<T>) {
    match x.device() {
        Device::Cpu => {
            let row = row.data();
            for_row_blocks(x.data_mut(), row.len(), 1, |_, block| {
                block
                    .chunks_exact_mut(row.len())
                    .for_each(|x| crate::backend::cpu::elementwise::add_part(x, row));
            });
        }
        Device::Card(card) => card.add_to_rows(x.on_card_mut(), row.on_card()),
    }
}

/// Adds every stretch of x that is as long as `sum` to it.
pub fn add_sum_of_each<T: Real>(sum: &mut Tensor<T>, x: &Tensor<T>) {
    match x.device() {
        Device::Cpu => {
            for part in x.data().chunks_exact(sum.len().max(1)) {
                crate::backend::cpu::elementwise::add_part(sum.data_mut(), part);
            }
        }
        Device::Card(card) => card.add_column_sums(sum.on_card_mut(), x.on_card()),
    }
}

/// The rows with these numbers, of a matrix of rows of `width`.
///
/// # Panics
/// When there is no such row.
pub fn picked<T: Real>(x: &Tensor<T>, rows: &[u32], width: usize) -> Tensor<T> {
    let shape = [rows.len(), width];
    match x.device() {
        Device::Cpu => {
            let row = |&at: &u32| x.data()[at as usize * width..][..width].iter().copied();
            Tensor::from_vec(rows.iter().flat_map(row).collect(), &shape, Device::Cpu)
        }
        Device::Card(card) => {
            let table = crate::backend::card::CardMatrix::F32(x.on_card());
            Tensor::from_card(card.table_rows(table, rows, width), &shape, card)
        }
    }
}

/// Adds the rows of `d`, of `width`, to the rows with these numbers, one after the other.
///
/// # Panics
/// When there is no such row.
pub fn add_to_picked<T: Real>(x: &mut Tensor<T>, d: &Tensor<T>, rows: &[u32], width: usize) {
    match x.device() {
        Device::Cpu => {
            let x = x.data_mut();
            for (&at, d) in rows.iter().zip(d.data().chunks_exact(width)) {
                crate::backend::cpu::elementwise::add_part(&mut x[at as usize * width..][..width], d);
            }
        }
        Device::Card(card) => card.add_table_rows(x.on_card_mut(), d.on_card(), rows, width),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(shape: &[usize]) -> Tensor<f64> {
        let count = shape.iter().product::<usize>();
        Tensor::from_vec((0..count).map(|i| i as f64).collect(), shape, Device::Cpu)
    }

    #[test]
    fn columns_come_apart_and_together() {
        let x = counted(&[2, 5]);
        let (left, right) = (columns(&x, 0, 2), columns(&x, 2, 3));
        assert_eq!((left.data(), right.data()), (&[0., 1., 5., 6.][..], &[2., 3., 4., 7., 8., 9.][..]));
        assert_eq!(side_by_side(&[&left, &right]).data(), x.data());
    }

    #[test]
    fn rows_are_repeated_added_and_picked() {
        let mut x = counted(&[3, 2]);
        let row = counted(&[1, 2]);
        add_to_each(&mut x, &row);
        assert_eq!(x.data(), [0., 2., 2., 4., 4., 6.]);
        copy((&mut x, RowLayout::every(0, 2)), (&row, RowLayout::every(0, 0)), [1, 1, 2], 2);
        assert_eq!(x.data(), [0., 1., 0., 1., 4., 6.]);
        add((&mut x, RowLayout::every(2, 2)), (&row, RowLayout::every(0, 0)), [1, 1, 2], 2);
        assert_eq!(x.data(), [0., 1., 0., 2., 4., 7.]);
        let mut sum = counted(&[2]);
        add_sum_of_each(&mut sum, &x);
        assert_eq!(sum.data(), [4., 11.]);
        assert_eq!(picked(&x, &[2, 0, 2], 2).data(), [4., 7., 0., 1., 4., 7.]);
        add_to_picked(&mut x, &counted(&[2, 2]), &[1, 1], 2);
        assert_eq!(x.data(), [0., 1., 2., 6., 4., 7.]);
    }
}
