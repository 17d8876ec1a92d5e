//! Rows cut out of tensors, joined, repeated and gathered.

use crate::backend;
pub use crate::backend::RowStrides;
use crate::{Float, Matrix, Tensor};

/// Copies `sizes` rows of `len` elements between places of two tensors.
///
/// # Panics
/// When a row leaves its tensor.
pub fn copy<T: Float>(
    to: (&mut Tensor<T>, RowStrides),
    from: (&Tensor<T>, RowStrides),
    sizes: [usize; 3],
    len: usize,
) {
    from.0.backend().copy_rows(to, from, sizes, len, false);
}

/// As [`copy`], adding.
///
/// # Panics
/// As [`copy`].
pub fn add<T: Float>(
    to: (&mut Tensor<T>, RowStrides),
    from: (&Tensor<T>, RowStrides),
    sizes: [usize; 3],
    len: usize,
) {
    from.0.backend().copy_rows(to, from, sizes, len, true);
}

/// Columns `first..first + width` of every row.
pub fn slice_columns<T: Float>(x: &Tensor<T>, first: usize, width: usize) -> Tensor<T> {
    backend::slice_columns(x.backend(), x, first, width)
}

/// The rows of all parts side by side.
///
/// # Panics
/// When the parts differ in their number of rows, or there are none.
pub fn concat_columns<T: Float>(parts: &[&Tensor<T>]) -> Tensor<T> {
    backend::concat_columns(parts[0].backend(), parts)
}

/// Adds `row` to every stretch of x that is as long.
pub fn add_to_each<T: Float>(x: &mut Tensor<T>, row: &Tensor<T>) {
    x.backend().add_to_rows(x, row);
}

/// Adds every stretch of x that is as long as `sum` to it.
pub fn add_sum_of_each<T: Float>(sum: &mut Tensor<T>, x: &Tensor<T>) {
    x.backend().add_rows_to(sum, x);
}

/// The rows with these numbers, of a matrix of rows of `width`.
///
/// # Panics
/// When there is no such row.
pub fn gather_rows<T: Float>(x: &Tensor<T>, rows: &[u32], width: usize) -> Tensor<T> {
    x.backend().gather_rows(Matrix::Full(x), rows, width)
}

/// Adds the rows of `d`, of `width`, to the rows with these numbers, one after the other.
///
/// # Panics
/// When there is no such row.
pub fn scatter_add_rows<T: Float>(x: &mut Tensor<T>, d: &Tensor<T>, rows: &[u32], width: usize) {
    x.backend().scatter_add_rows(x, d, rows, width);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;

    fn counted(shape: &[usize]) -> Tensor<f64> {
        let count = shape.iter().product::<usize>();
        Tensor::from_vec((0..count).map(|i| i as f64).collect(), shape, Device::Cpu)
    }

    #[test]
    fn columns_come_apart_and_together() {
        let x = counted(&[2, 5]);
        let (left, right) = (slice_columns(&x, 0, 2), slice_columns(&x, 2, 3));
        assert_eq!((left.data(), right.data()), (&[0., 1., 5., 6.][..], &[2., 3., 4., 7., 8., 9.][..]));
        assert_eq!(concat_columns(&[&left, &right]).data(), x.data());
    }

    #[test]
    fn rows_are_repeated_added_and_picked() {
        let mut x = counted(&[3, 2]);
        let row = counted(&[1, 2]);
        add_to_each(&mut x, &row);
        assert_eq!(x.data(), [0., 2., 2., 4., 4., 6.]);
        copy((&mut x, RowStrides::every(0, 2)), (&row, RowStrides::every(0, 0)), [1, 1, 2], 2);
        assert_eq!(x.data(), [0., 1., 0., 1., 4., 6.]);
        add((&mut x, RowStrides::every(2, 2)), (&row, RowStrides::every(0, 0)), [1, 1, 2], 2);
        assert_eq!(x.data(), [0., 1., 0., 2., 4., 7.]);
        let mut sum = counted(&[2]);
        add_sum_of_each(&mut sum, &x);
        assert_eq!(sum.data(), [4., 11.]);
        assert_eq!(gather_rows(&x, &[2, 0, 2], 2).data(), [4., 7., 0., 1., 4., 7.]);
        scatter_add_rows(&mut x, &counted(&[2, 2]), &[1, 1], 2);
        assert_eq!(x.data(), [0., 1., 2., 6., 4., 7.]);
    }
}
