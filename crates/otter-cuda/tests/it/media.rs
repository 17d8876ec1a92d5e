//! Rows that see all media alike against the host's media attention.

use crate::common::{assert_close, gpu, numbers, on};
use otter_cuda::media::{mean_rows, mean_rows_backward};
use otter_nn::MediaTarget::{Nothing, Uniform};
use otter_nn::{Device, MediaAttention, MediaRows, Tensor};

/// Five items; an item for several rows, one twice for a row, none for a row.
const ITEMS: [&[usize]; 4] = [&[1, 2], &[], &[4], &[2, 0, 2, 3]];

#[test]
fn means_and_their_gradients_are_the_hosts() {
    let gpu = gpu();
    for (latents, heads, head_size) in [(1, 1, 1), (3, 2, 5), (64, 4, 64), (7, 3, 100)] {
        let width = heads * head_size;
        let what = format!("{latents} latents of {width}");
        let targets =
            [Uniform(0), Nothing, Uniform(3), Uniform(1), Uniform(0), Uniform(2), Nothing, Uniform(0)];
        let host_rows = MediaRows {
            targets: targets.to_vec(),
            length: targets.len(),
            items: ITEMS.iter().map(|items| items.to_vec()).collect(),
        };
        let rows: Vec<(usize, &[usize])> = (0..)
            .zip(targets)
            .filter_map(|(row, target)| match target {
                Uniform(sequence) => Some((row, ITEMS[sequence])),
                _ => None,
            })
            .collect();
        let tensor =
            |rows: usize, seed| Tensor::from_vec(numbers(rows * width, seed), &[rows, width], Device::Cpu);
        let (q, v, d_out) = (tensor(8, 1), tensor(5 * latents, 2), tensor(8, 3));
        let core = MediaAttention { heads, head_size, latents };
        let saved = core.forward_saved(&q, &v, &v, &host_rows);

        // Rows that are not listed stay.
        let before = numbers(8 * width, 4);
        let mut out = on(&gpu, &before);
        mean_rows(&mut out, &on(&gpu, v.data()), &rows, latents, width).expect("a launch");
        let mut expected = saved.out.data().to_vec();
        for row in [1, 6] {
            expected[row * width..][..width].copy_from_slice(&before[row * width..][..width]);
        }
        assert_close(&out, &expected, 1e-6, &what);

        let (_, _, d_host) = core.backward(&q, &v, &v, &host_rows, &saved, &d_out);
        let before = numbers(5 * latents * width, 5);
        let on_d_out = on(&gpu, d_out.data());
        let gradients = |before: &[f32]| {
            let mut dv = on(&gpu, before);
            mean_rows_backward(&mut dv, &on_d_out, &rows, latents, width).expect("a launch");
            dv
        };
        assert_close(&gradients(&vec![0.0; before.len()]), d_host.data(), 1e-6, &what);
        let expected: Vec<f32> = before.iter().zip(d_host.data()).map(|(a, b)| a + b).collect();
        assert_close(&gradients(&before), &expected, 1e-6, &what);
    }
}

#[test]
fn no_rows_and_rows_without_items() {
    let gpu = gpu();
    let v = on(&gpu, &numbers(2 * 3 * 4, 1));
    for rows in [&[][..], &[(1, &[][..])]] {
        let (mut out, mut dv) = (on(&gpu, &[1.0; 8]), on(&gpu, &[1.0; 24]));
        mean_rows(&mut out, &v, rows, 3, 4).expect("a launch");
        let mut expected = [1.0; 8];
        rows.iter().for_each(|&(row, _)| expected[row * 4..][..4].fill(0.0));
        assert_eq!(out.download().expect("a download"), expected);
        mean_rows_backward(&mut dv, &out, rows, 3, 4).expect("a launch");
        assert_eq!(dv.download().expect("a download"), [1.0; 24]);
    }
}

#[test]
#[should_panic(expected = "an item is not among 2")]
fn items_that_are_not_there_are_refused() {
    let gpu = gpu();
    let (mut out, v) = (gpu.zeros(8).expect("memory"), gpu.zeros(24).expect("memory"));
    let _ = mean_rows(&mut out, &v, &[(0, &[1, 2])], 3, 4);
}

#[test]
#[should_panic(expected = "a row is not among 2")]
fn rows_that_are_not_there_are_refused() {
    let gpu = gpu();
    let (d_out, mut dv) = (gpu.zeros(8).expect("memory"), gpu.zeros(24).expect("memory"));
    let _ = mean_rows_backward(&mut dv, &d_out, &[(2, &[1])], 3, 4);
}

#[test]
#[should_panic(expected = "a row is listed twice")]
fn rows_are_written_once() {
    let gpu = gpu();
    let (mut out, v) = (gpu.zeros(8).expect("memory"), gpu.zeros(24).expect("memory"));
    let _ = mean_rows(&mut out, &v, &[(0, &[1]), (0, &[0])], 3, 4);
}
