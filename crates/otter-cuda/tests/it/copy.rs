//! Strided copies against plain loops.

use crate::common::{gpu, numbers, on};
use otter_cuda::copy::{Layout, copy};

fn strides(offset: usize, strides: [usize; 3]) -> Layout {
    Layout { offset, strides }
}

/// Bit for bit, what is not copied to included.
fn check(
    to_strides: Layout,
    from_strides: Layout,
    sizes @ [i_size, j_size, k_size]: [usize; 3],
    len: usize,
    room: [usize; 2],
) {
    let gpu = gpu();
    let (before, from) = (numbers(room[0], 1), numbers(room[1], 2));
    let on_gpu = on(&gpu, &from);
    for accumulate in [false, true] {
        let mut expected = before.clone();
        for (i, j, k) in
            (0..i_size).flat_map(|i| (0..j_size).flat_map(move |j| (0..k_size).map(move |k| (i, j, k))))
        {
            let start = |Layout { offset, strides: [a, b, c] }: Layout| offset + i * a + j * b + k * c;
            for e in 0..len {
                let (to, from) = (&mut expected[start(to_strides) + e], from[start(from_strides) + e]);
                *to = if accumulate { *to + from } else { from };
            }
        }
        let mut to = on(&gpu, &before);
        copy(&mut to, to_strides, &on_gpu, from_strides, sizes, len, accumulate).expect("a launch");
        let same = to.download().expect("a download") == expected;
        assert!(same, "{to_strides:?} from {from_strides:?}, {sizes:?} runs of {len}, {accumulate}");
    }
}

#[test]
fn rows_are_cut_joined_and_repeated() {
    // some columns of rows, whole quads and not
    check(strides(0, [8, 0, 0]), strides(4, [20, 0, 0]), [7, 1, 1], 8, [56, 140]);
    check(strides(0, [7, 0, 0]), strides(3, [19, 0, 0]), [7, 1, 1], 7, [49, 133]);
    // into some columns
    check(strides(8, [20, 0, 0]), strides(0, [12, 0, 0]), [5, 1, 1], 12, [100, 60]);
    // one row for many
    check(strides(0, [12, 0, 0]), strides(12, [0, 0, 0]), [6, 1, 1], 12, [72, 24]);
    check(strides(0, [60, 12, 4]), strides(0, [36, 0, 4]), [2, 5, 3], 4, [120, 72]);
    // keys of two sequences, three new rows of 2 heads of 8, into a cache by head
    check(strides(16, [160, 8, 80]), strides(0, [48, 16, 8]), [2, 3, 2], 8, [320, 96]);
    check(strides(10, [100, 5, 50]), strides(0, [30, 10, 5]), [2, 3, 2], 5, [200, 60]);
}

#[test]
fn everything_at_once_and_nothing() {
    // all runs are one
    check(strides(4, [600, 20, 4]), strides(0, [600, 20, 4]), [3, 30, 5], 4, [1804, 1801]);
    // single elements that make rows, and a transposition
    check(strides(0, [0, 0, 1]), strides(1, [0, 0, 1]), [1, 1, 1001], 1, [1001, 1003]);
    check(strides(0, [0, 1, 31]), strides(0, [0, 17, 1]), [1, 31, 17], 1, [527, 527]);
    // strides of dimensions with one run do not matter
    check(strides(0, [0, 3, 0]), strides(0, [usize::MAX, 5, 7]), [1, 4, 1], 3, [12, 18]);
    check(strides(0, [0, 0, 0]), strides(0, [0, 0, 0]), [3, 0, 2], 5, [3, 3]);
    check(strides(9, [0, 0, 0]), strides(9, [0, 0, 0]), [3, 3, 2], 0, [3, 3]);
}

/// More units than a grid has threads.
#[test]
fn threads_go_on_after_their_first_unit() {
    check(strides(1, [6, 0, 0]), strides(0, [5, 0, 0]), [900_000, 1, 1], 5, [5_400_000, 4_500_000]);
}

fn refused(to_strides: Layout, from_strides: Layout, sizes: [usize; 3]) {
    let gpu = gpu();
    let (mut to, from) = (gpu.zeros(100).expect("memory"), gpu.zeros(100).expect("memory"));
    let _ = copy(&mut to, to_strides, &from, from_strides, sizes, 10, false);
}

#[test]
#[should_panic(
    expected = "copy to Layout { offset: 1, strides: [0, 0, 10] }: [1, 1, 10] runs of 10 in 100 elements"
)]
fn leaving_what_is_written_is_refused() {
    refused(strides(1, [0, 0, 10]), strides(0, [0, 0, 10]), [1, 1, 10]);
}

#[test]
#[should_panic(expected = "copy from")]
fn leaving_what_is_read_is_refused() {
    refused(strides(0, [0, 0, 10]), strides(0, [0, 0, usize::MAX / 2]), [1, 1, 10]);
}

#[test]
#[should_panic(expected = "runs lie on each other")]
fn writing_twice_is_refused() {
    refused(strides(0, [0, 0, 10]), strides(0, [0, 0, 10]), [2, 1, 3]);
}
