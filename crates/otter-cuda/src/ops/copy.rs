//! Strided copies, by which rows are cut, joined, repeated, and keys put into a cache.

use crate::Argument;
use crate::{Buffer, Launch, Result};

/// Where the runs of elements of a copy are: run (i, j, k) begins at
/// `offset + i strides[0] + j strides[1] + k strides[2]`.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Element at which the first run begins.
    pub offset: usize,
    /// Elements from a run to the next of each dimension. A stride of 0 in what is read repeats it.
    pub strides: [usize; 3],
}

impl Layout {
    /// One past the last element of runs of `len`, of which there are some.
    fn end(&self, sizes: [usize; 3], len: usize) -> usize {
        let steps = sizes.iter().zip(self.strides).map(|(&size, stride)| (size - 1).saturating_mul(stride));
        steps.fold(self.offset.saturating_add(len), usize::saturating_add)
    }
}

/// For all i, j, k below `sizes` and e below `len`: element e of run (i, j, k) of `to` becomes that of `from`, or `from`'s is
/// added to it. No element of `to` may belong to two runs.
///
/// # Errors
/// What the driver says.
///
/// # Panics
/// When a strides leaves its buffer, or a stride of `to` is 0 where there is more than one run.
pub fn copy(
    to: &mut Buffer<f32>,
    to_strides: Layout,
    from: &Buffer<f32>,
    from_strides: Layout,
    sizes: [usize; 3],
    len: usize,
    accumulate: bool,
) -> Result<()> {
    if len == 0 || sizes.contains(&0) {
        return Ok(());
    }
    for (what, buffer, strides) in [("to", &*to, to_strides), ("from", from, from_strides)] {
        let inside = strides.end(sizes, len) <= buffer.len();
        assert!(inside, "copy {what} {strides:?}: {sizes:?} runs of {len} in {} elements", buffer.len());
    }
    let mut dimensions: Vec<[usize; 3]> =
        (0..3).map(|d| [sizes[d], to_strides.strides[d], from_strides.strides[d]]).collect();
    dimensions.retain(|&[size, ..]| size > 1);
    assert!(
        dimensions.iter().all(|&[_, stride, _]| stride > 0),
        "copy to {to_strides:?}: runs lie on each other"
    );
    // Runs that follow each other on both sides are one.
    let mut len = len;
    while let Some(&[size, to_stride, from_stride]) = dimensions.last()
        && [to_stride, from_stride] == [len; 2]
    {
        len *= size;
        dimensions.pop();
    }
    let count = dimensions.iter().fold(len, |count, &[size, ..]| count * size);
    dimensions.resize(3, [1, 0, 0]);
    let [[_, to_i, from_i], [j_size, to_j, from_j], [k_size, to_k, from_k]] =
        [dimensions[0], dimensions[1], dimensions[2]];
    let to_numbers = [to_strides.offset, to_i, to_j, to_k];
    let from_numbers = [from_strides.offset, from_i, from_j, from_k];
    let fours = to_numbers.iter().chain(&from_numbers).chain([&len]).all(|number| number.is_multiple_of(4));
    let (kernel, unit) = if fours { ("copy_fours", 4) } else { ("copy_floats", 1) };
    let units = |number: usize| Argument::from(number / unit);
    let mut arguments = vec![(&*to).into()];
    arguments.extend(to_numbers.map(units));
    arguments.push(from.into());
    arguments.extend(from_numbers.map(units));
    arguments.extend([j_size.into(), k_size.into(), units(len), units(count), u32::from(accumulate).into()]);
    // SAFETY: both strides stay inside their buffers (checked above); a unit is touched by one thread.
    unsafe { to.gpu().launch(&Launch::over(kernel, count / unit, arguments)) }
}
