//! Norms, rotary positions, tables, losses and products against the host's.

use crate::common::{assert_close, gpu, numbers, on};
use otter_cuda::{Precision, cross_entropy, embedding, matmul, norm, rotary::RotaryAngles};
use otter_nn::backend::cpu::{gemm as host_matmul, norm as host_norm};
use otter_nn::{
    CrossEntropy, Device, Gradients, Init, ParameterSpecs, Parameters, Rotary, Tensor, rotary_frequencies,
};

fn pairs(flat: &[f32]) -> Vec<[f32; 2]> {
    flat.as_chunks().0.to_vec()
}

#[test]
fn norms() {
    let gpu = gpu();
    for (rows, width) in [(1, 1), (3, 40), (17, 333), (2, 1024)] {
        let (x, dy) = (numbers(rows * width, 1), numbers(rows * width, 2));
        let (weight, bias) = (numbers(width, 3), numbers(width, 4));
        let (on_x, on_dy, on_weight) = (on(&gpu, &x), on(&gpu, &dy), on(&gpu, &weight));
        for (centered, with_bias) in [(true, true), (true, false), (false, false)] {
            let what = format!("{rows} x {width}, centered {centered}");
            let bias = with_bias.then_some(&bias[..]);
            let on_bias = bias.map(|bias| on(&gpu, bias));
            let (y, statistics) =
                norm::forward(&on_x, &on_weight, on_bias.as_ref(), 1e-5, centered).expect("a launch");
            let (expected, expected_statistics) = if centered {
                host_norm::layer_norm(&x, &weight, bias, 1e-5)
            } else {
                host_norm::rms_norm(&x, &weight, 1e-5)
            };
            assert_close(&y, &expected, 1e-5, &what);
            let found = pairs(&statistics.download().expect("a download"));
            for (found, expected) in found.iter().zip(&expected_statistics) {
                assert!(
                    (0..2).all(|i| (found[i] - expected[i]).abs() <= 2e-6 * expected[i].abs().max(1.0)),
                    "{what}"
                );
            }
            let dx =
                norm::backward_input(&on_dy, &on_x, &on_weight, &statistics, centered).expect("a launch");
            let expected_dx =
                host_norm::norm_backward_input(&dy, &x, &weight, &expected_statistics, centered);
            // of one centered element nothing is left but rounding
            if width > 1 {
                assert_close(&dx, &expected_dx, 1e-5, &what);
            }
            let (mut d_weight, mut d_bias) = (weight.clone(), weight.clone());
            host_norm::norm_backward_weight(&mut d_weight, &dy, &x, &expected_statistics);
            host_norm::add_column_sums(&mut d_bias, &dy);
            let (mut on_d_weight, mut on_d_bias) = (on(&gpu, &weight), on(&gpu, &weight));
            norm::backward_weight(&mut on_d_weight, Some(&mut on_d_bias), &on_dy, &on_x, &statistics)
                .expect("a launch");
            assert_close(&on_d_weight, &d_weight, 1e-5, &what);
            assert_close(&on_d_bias, &d_bias, 1e-5, &what);
            let mut on_d_bias = on(&gpu, &weight);
            norm::add_column_sums(&mut on_d_bias, &on_dy).expect("a launch");
            assert_close(&on_d_bias, &d_bias, 1e-5, &what);
        }
    }
}

#[test]
fn rotary_positions() {
    let gpu = gpu();
    let rotaries = [
        Rotary::new(8, 10_000.0),
        Rotary::with_frequencies(10, rotary_frequencies(4, 500.0)),
        Rotary::dynamic(8, 8, 10_000.0, 2.0, 4),
    ];
    for rotary in rotaries {
        let positions = [0, 1, 7, 3, 100];
        let rows = numbers(5 * 3 * rotary.head_size(), 1);
        let mut on_gpu = on(&gpu, &rows);
        let mut rows = Tensor::from_vec(rows, &[5, 3 * rotary.head_size()], Device::Cpu);
        let angles = RotaryAngles::new(&gpu, &rotary, &positions).expect("memory");
        angles.rotate(&mut on_gpu).expect("a launch");
        rotary.rotate(&mut rows, &positions);
        assert_close(&on_gpu, rows.data(), 1e-6, "rotated");
        angles.rotate_back(&mut on_gpu).expect("a launch");
        rotary.rotate_back(&mut rows, &positions);
        assert_close(&on_gpu, rows.data(), 1e-6, "and back");
    }
}

#[test]
fn tables() {
    let gpu = gpu();
    let width = 300;
    let table = numbers(7 * width, 1);
    let ids = [3, 0, 3, 6, 3];
    let found = embedding::rows_of((&on(&gpu, &table)).into(), &ids, width).expect("a launch");
    let expected: Vec<f32> =
        ids.iter().flat_map(|&id| table[id as usize * width..][..width].to_vec()).collect();
    assert_close(&found, &expected, 0.0, "rows");
    let dy = numbers(ids.len() * width, 2);
    let mut d_table = on(&gpu, &table);
    embedding::backward(&mut d_table, &on(&gpu, &dy), &ids, width).expect("a launch");
    let mut expected = table.clone();
    for (&id, dy) in ids.iter().zip(dy.chunks(width)) {
        for (d, dy) in expected[id as usize * width..][..width].iter_mut().zip(dy) {
            *d += dy;
        }
    }
    assert_close(&d_table, &expected, 0.0, "gradients");
}

/// The whole of the host's layer, its product with the table included.
#[test]
fn losses() {
    let gpu = gpu();
    let (rows, width, vocabulary, scale) = (6, 20, 613, 0.37);
    let mut specs = ParameterSpecs::default();
    let table = specs.add_matrix("t.weight".to_owned(), [vocabulary, width], Init::Normal(1.0));
    let layer = CrossEntropy::new(table);
    let values = numbers(vocabulary * width, 1);
    let tensor = Tensor::from_vec(values.clone(), &[vocabulary, width], Device::Cpu);
    let Ok(mut parameters) =
        Parameters::build(&specs, Device::Cpu, |_| Ok::<_, std::convert::Infallible>(tensor.clone()));
    parameters.set_trainable(|_| true);
    let mut gradients = Gradients::new(&parameters);
    let hidden = Tensor::from_vec(numbers(rows * width, 2), &[rows, width], Device::Cpu);
    let targets: Vec<i64> = vec![0, 612, 5, 5, 300, 17];
    let (sum, d_hidden) = layer.forward_backward(&parameters, &hidden, &targets, scale, &mut gradients);

    let (on_hidden, on_table) = (on(&gpu, hidden.data()), on(&gpu, &values));
    let mut logits = gpu.allocate(rows * vocabulary).expect("memory");
    matmul::matmul_nt(
        &mut logits,
        &on_hidden,
        (&on_table).into(),
        (width, vocabulary),
        false,
        Precision::F32,
    )
    .expect("a launch");
    let targets: Vec<u32> = targets.iter().map(|&target| target as u32).collect();
    let before = logits.download().expect("a download");
    let alone = cross_entropy::losses(&mut logits, &targets, vocabulary, None).expect("a launch");
    assert_eq!(logits.download().expect("a download"), before, "without a scale logits stay");
    let losses =
        cross_entropy::losses(&mut logits, &targets, vocabulary, Some(scale as f32)).expect("a launch");
    let losses = losses.download().expect("a download");
    assert_eq!(losses, alone.download().expect("a download"));
    let found: f64 = losses.into_iter().map(f64::from).sum();
    assert!((found - sum.sum).abs() < 1e-5 * sum.sum, "{found}, expected {}", sum.sum);
    let mut on_d_hidden = gpu.allocate(rows * width).expect("memory");
    matmul::matmul_nn(
        &mut on_d_hidden,
        &logits,
        (&on_table).into(),
        (vocabulary, width),
        false,
        Precision::F32,
    )
    .expect("a launch");
    assert_close(&on_d_hidden, d_hidden.data(), 1e-5, "gradient of the hidden rows");
    let mut d_table = gpu.zeros(vocabulary * width).expect("memory");
    matmul::matmul_tn_add(&mut d_table, &logits, &on_hidden, (vocabulary, width), Precision::F32)
        .expect("a launch");
    assert_close(&d_table, &gradients.flat(), 1e-5, "gradient of the table");
}

#[test]
fn products() {
    let gpu = gpu();
    for (rows, inner, outer) in [(1, 1, 1), (5, 33, 7), (130, 20, 70), (40, 131, 260)] {
        let (x, w, dy) = (numbers(rows * inner, 1), numbers(outer * inner, 2), numbers(rows * outer, 3));
        let (on_x, on_w, on_dy) = (on(&gpu, &x), on(&gpu, &w), on(&gpu, &dy));
        for accumulate in [false, true] {
            let what = format!("{rows} x {inner} x {outer}, accumulate {accumulate}");
            let mut y = numbers(rows * outer, 4);
            let mut on_y = on(&gpu, &y);
            host_matmul::matmul_nt(&mut y, &x, &w[..], inner, outer, accumulate);
            matmul::matmul_nt(&mut on_y, &on_x, (&on_w).into(), (inner, outer), accumulate, Precision::F32)
                .expect("a launch");
            assert_close(&on_y, &y, 2e-6, &what);
            let mut dx = numbers(rows * inner, 5);
            let mut on_dx = on(&gpu, &dx);
            host_matmul::matmul_nn(&mut dx, &dy, &w[..], outer, inner, accumulate);
            matmul::matmul_nn(&mut on_dx, &on_dy, (&on_w).into(), (outer, inner), accumulate, Precision::F32)
                .expect("a launch");
            assert_close(&on_dx, &dx, 2e-6, &what);
        }
        let mut dw = numbers(outer * inner, 6);
        let mut on_dw = on(&gpu, &dw);
        host_matmul::matmul_tn_add(&mut dw, &dy, &x, outer, inner);
        matmul::matmul_tn_add(&mut on_dw, &on_dy, &on_x, (outer, inner), Precision::F32).expect("a launch");
        assert_close(&on_dw, &dw, 2e-6, "gradient of the matrix");
    }
}

/// A loss is no number where a logit is not finite, whatever the target.
#[test]
fn losses_of_logits_that_are_not_finite() {
    let gpu = gpu();
    let (vocabulary, targets) = (613, [1u32, 2, 3]);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in [0, 300, 612] {
            let mut logits = numbers(3 * vocabulary, 1);
            logits[vocabulary + place] = bad;
            let mut logits = on(&gpu, &logits);
            let losses = cross_entropy::losses(&mut logits, &targets, vocabulary, None).expect("a launch");
            let finite: Vec<bool> =
                losses.download().expect("a download").into_iter().map(f32::is_finite).collect();
            assert_eq!(finite, [true, false, true], "{bad} at {place}");
        }
    }
    let mut all = on(&gpu, &vec![f32::NAN; vocabulary]);
    let losses = cross_entropy::losses(&mut all, &targets[..1], vocabulary, None).expect("a launch");
    assert!(losses.download().expect("a download")[0].is_nan());
}
