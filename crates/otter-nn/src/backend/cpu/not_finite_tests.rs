//! No kernel turns a number that is not finite into one that is: each operand in turn gets one, and what depends on it must
//! not be finite, while what does not depend on it stays.

use half::{bf16, f16};

use super::{elementwise, gemm, norm};
use crate::layers::attention::KeysValues;
use crate::layers::cross_entropy::log_sum_exp;
use crate::testing::gradient_check::random_tensor;
use crate::{
    AttentionMask, CrossEntropy, Device, Float, Gradients, Init, MediaAttention, MediaRows, MediaTarget,
    ParameterSpecs, Parameters, QuantizedFormat, QuantizedMatrix, SelfAttentionCore, TanhGate, Tensor,
    WeightView,
};

const BAD: [f32; 3] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

fn numbers(name: &str, shape: &[usize]) -> Tensor {
    random_tensor(name, shape).cast()
}

fn with(tensor: &Tensor, at: usize, value: f32) -> Tensor {
    let mut tensor = tensor.clone();
    tensor.data_mut()[at] = value;
    tensor
}

/// Self-attention of two entries of `rows` rows over `rows` keys, with and without hidden keys.
#[test]
fn self_attention() {
    let (heads, key_heads, size, batch) = (4, 2, 6, 2);
    let core = SelfAttentionCore::new(heads, key_heads, size);
    for rows in [1, 3, 70] {
        let visible = (0..batch * rows).map(|key| rows < 3 || key % rows != 0).collect();
        for mask in [
            AttentionMask::Full,
            AttentionMask::Causal { offset: 0, visible: None },
            AttentionMask::Causal { offset: 0, visible: Some(visible) },
        ] {
            let sees = |row: usize, key: usize| match &mask {
                AttentionMask::Causal { visible, .. } => {
                    key <= row && visible.as_ref().is_none_or(|visible| visible[key])
                }
                _ => true,
            };
            let [q, k, v] = [("q", heads), ("k", key_heads), ("v", key_heads)]
                .map(|(name, heads)| numbers(name, &[batch * rows, heads * size]));
            let attend = |q: &Tensor, k: &Tensor, v: &Tensor| {
                let kv = KeysValues::exact(k, v, rows);
                let saved = core.forward_saved(q, batch, kv, &mask);
                let plain = core.forward(q, batch, kv, &mask);
                for (a, b) in saved.out.data().iter().zip(plain.data()) {
                    assert!(a == b || a.is_nan() && b.is_nan());
                }
                plain
            };
            assert!(crate::all_finite(attend(&q, &k, &v).data()));
            let at = |out: &Tensor, row: usize, head: usize, feature: usize| {
                out.data()[(row * heads + head) * size + feature]
            };
            for place in [0, rows / 2, rows - 1] {
                let what = format!("{rows} rows, {mask:?}, place {place}");
                // A query: its head and row only.
                let out = attend(&with(&q, place * heads * size, f32::NAN), &k, &v);
                for row in 0..rows {
                    for head in 0..heads {
                        let nan = row == place && head == 0 && (0..=row).any(|key| sees(row, key));
                        assert_eq!(at(&out, row, head, 3).is_nan(), nan, "query, row {row}, {what}");
                    }
                }
                // A key: every row that sees it, in the heads that share it.
                let out = attend(&q, &with(&k, place * key_heads * size, f32::NAN), &v);
                for row in 0..batch * rows {
                    for head in 0..heads {
                        let nan = row < rows && head < 2 && sees(row, place);
                        assert_eq!(at(&out, row, head, 3).is_nan(), nan, "key, row {row}, {what}");
                    }
                }
                // A value: one feature of every row that sees it, and nothing of the other entry.
                for bad in BAD {
                    let out = attend(&q, &k, &with(&v, place * key_heads * size + 1, bad));
                    for row in 0..batch * rows {
                        let found = at(&out, row, 1, 1);
                        if row >= rows {
                            assert!(found.is_finite());
                        } else if sees(row, place) {
                            assert!(!found.is_finite(), "value {bad}, row {row}, {what}");
                        }
                    }
                }
            }
        }
    }
}

/// Scores that are all infinite leave no probabilities, whichever their sign.
#[test]
fn infinite_queries() {
    let core = SelfAttentionCore::new(1, 1, 4);
    let ones = Tensor::from_vec(vec![1.0f32; 12], &[3, 4], Device::Cpu);
    for rows in [1, 3] {
        for bad in [f32::INFINITY, f32::NEG_INFINITY] {
            let q = with(&Tensor::from_vec(vec![1.0; 4 * rows], &[rows, 4], Device::Cpu), 0, bad);
            let out = core.forward(&q, 1, KeysValues::exact(&ones, &ones, 3), &AttentionMask::Full);
            assert!(out.data()[..4].iter().all(|out| out.is_nan()), "{bad}");
            assert!(crate::all_finite(&out.data()[4..]));
        }
    }
}

/// Text rows over latents, many at a time and, as in decoding, one an entry.
#[test]
fn media_attention() {
    let core = MediaAttention { heads: 2, head_size: 4, latents: 3 };
    let (k, v) = (numbers("k", &[6, 8]), numbers("v", &[6, 8]));
    let targets =
        vec![MediaTarget::Nothing, MediaTarget::Item(0), MediaTarget::Item(1), MediaTarget::Uniform(0)];
    let many = MediaRows { targets: targets.clone(), length: 4, items: vec![vec![0, 1]] };
    let single = MediaRows { targets, length: 1, items: vec![vec![0, 1]; 4] };
    for rows in [many, single] {
        let q = numbers("q", &[4, 8]);
        let attend = |q: &Tensor, k: &Tensor, v: &Tensor| {
            let (mut out, mut scores) = (q.zeros_like(), Tensor::zeros(&[4 * 2 * 3], Device::Cpu));
            core.forward_into(q, k, v, &rows, &mut scores, &mut out);
            let nan = |row: &[f32]| row.iter().filter(|out| !out.is_finite()).count();
            out.data().chunks(8).map(nan).collect::<Vec<_>>()
        };
        assert_eq!(attend(&q, &k, &v), [0; 4]);
        // Whatever the query, a row of nothing is zero and a uniform row is the mean.
        assert_eq!(attend(&with(&q, 0, f32::NAN), &k, &v), [0; 4]);
        assert_eq!(attend(&with(&q, 8, f32::NAN), &k, &v), [0, 4, 0, 0]);
        assert_eq!(attend(&q, &with(&k, 0, f32::NAN), &v), [0, 4, 0, 0]);
        assert_eq!(attend(&q, &with(&k, 5 * 8, f32::NAN), &v), [0, 0, 4, 0]);
        for bad in BAD {
            assert_eq!(attend(&q, &k, &with(&v, 2 * 8, bad)), [0, 1, 0, 1], "{bad}");
        }
        // All keys of an item at once: no maximum is a number.
        let mut all = k.clone();
        all.data_mut()[..24].fill(f32::NAN);
        assert_eq!(attend(&q, &all, &v), [0, 8, 0, 0]);
    }
}

#[test]
fn losses() {
    for length in [1, 16, 50] {
        let logits = numbers("logits", &[length]);
        assert!(log_sum_exp(logits.data()).is_finite());
        for at in 0..length {
            for bad in BAD {
                assert!(log_sum_exp(with(&logits, at, bad).data()).is_nan(), "{bad} at {at} of {length}");
            }
        }
    }
    let mut specs = ParameterSpecs::default();
    let head = CrossEntropy::new(specs.add_matrix("head", [20, 5], Init::Normal(1.0)));
    let parameters = Parameters::<f32>::initialize(&specs, 0, Device::Cpu);
    let (hidden, targets) = (numbers("h", &[3, 5]), [2, crate::IGNORE_INDEX, 7]);
    let finite = |parameters: &Parameters, hidden: &Tensor| {
        let mut trained = parameters.clone();
        trained.set_trainable(|_| true);
        let mut gradients = Gradients::new(&trained);
        let (loss, d) = head.forward_backward(&trained, hidden, &targets, 1.0, &mut gradients);
        let found = head.log_probabilities(parameters, hidden, &targets);
        let found: Vec<bool> = found.iter().flatten().map(|value| value.is_finite()).collect();
        assert_eq!(loss.sum.is_finite() && crate::all_finite(d.data()), found == [true; 2]);
        found
    };
    assert_eq!(finite(&parameters, &hidden), [true, true]);
    for bad in BAD {
        assert_eq!(finite(&parameters, &with(&hidden, 1, bad)), [false, true]);
        // What is not asked for is not computed.
        assert_eq!(finite(&parameters, &with(&hidden, 5, bad)), [true, true]);
        let mut parameters = parameters.clone();
        // A row that is nobody's target.
        parameters.iter_mut().for_each(|p| p.tensor.make_full().data_mut()[19 * 5] = bad);
        assert_eq!(finite(&parameters, &hidden), [false, false]);
    }
}

#[test]
fn norms() {
    let (rows, width) = (3, 37);
    let (x, weight, bias) =
        (numbers("x", &[rows, width]), numbers("weight", &[width]), numbers("bias", &[width]));
    let count = |y: &[f32]| y.chunks(width).map(|y| y.iter().filter(|y| !y.is_finite()).count()).collect();
    for bad in BAD {
        for at in [0, 20, 36] {
            let layer = |x: &Tensor, weight: &Tensor, bias: &Tensor| -> Vec<usize> {
                count(&norm::layer_norm(x.data(), weight.data(), Some(bias.data()), 1e-5).0)
            };
            assert_eq!(layer(&with(&x, width + at, bad), &weight, &bias), [0, width, 0]);
            assert_eq!(layer(&x, &with(&weight, at, bad), &bias), [1; 3]);
            assert_eq!(layer(&x, &weight, &with(&bias, at, bad)), [1; 3]);
            let rms = |x: &Tensor, weight: &Tensor| -> Vec<usize> {
                count(&norm::rms_norm(x.data(), weight.data(), 1e-5).0)
            };
            // An infinite number makes the others zero, and is itself no number.
            let expected = if bad.is_nan() { width } else { 1 };
            assert_eq!(rms(&with(&x, width + at, bad), &weight), [0, expected, 0]);
            assert_eq!(rms(&x, &with(&weight, at, bad)), [1; 3]);
        }
    }
}

#[test]
fn activations_and_sums() {
    use elementwise::{Gelu, GeluTanh, QuickGelu, Relu};
    let x = numbers("x", &[37]);
    let up = numbers("up", &[37]);
    for at in [0, 17, 36] {
        let bad = with(&x, at, f32::NAN);
        let mut clamped = bad.clone();
        elementwise::clamp(clamped.data_mut(), 0.5);
        let mut sum = x.clone();
        elementwise::add_scaled(sum.data_mut(), bad.data(), 0.0);
        for y in [
            elementwise::activate::<Gelu, f32>(bad.data()),
            elementwise::activate::<GeluTanh, f32>(bad.data()),
            elementwise::activate::<QuickGelu, f32>(bad.data()),
            elementwise::activate::<Relu, f32>(bad.data()),
            elementwise::silu_product(bad.data(), up.data()),
            elementwise::silu_product(up.data(), bad.data()),
            clamped.into_vec(),
            sum.into_vec(),
        ] {
            let nan: Vec<usize> = (0..37).filter(|&i| y[i].is_nan()).collect();
            assert_eq!(nan, [at]);
        }
    }
    assert!(f32::NAN.exp().is_nan() && Float::exp(f32::NAN).is_nan() && Float::sigmoid(f32::NAN).is_nan());
}

#[test]
fn gates() {
    let mut specs = ParameterSpecs::default();
    let gate = TanhGate::new(&mut specs, "gate");
    let mut parameters = Parameters::<f32>::initialize(&specs, 0, Device::Cpu);
    let (x, branch) = (numbers("x", &[2, 5]), numbers("branch", &[2, 5]));
    assert_eq!(gate.forward(&parameters, &x, &branch).data(), x.data());
    // Also behind a closed gate.
    let y = gate.forward(&parameters, &x, &with(&branch, 3, f32::NAN));
    assert!(y.data()[3].is_nan() && crate::all_finite(&y.data()[4..]));
    for bad in BAD {
        parameters.iter_mut().for_each(|p| p.tensor.make_full().data_mut()[0] = bad);
        assert!(gate.forward(&parameters, &x, &branch).data().iter().all(|y| y.is_nan()), "{bad}");
    }
}

/// Products with a matrix however it is stored, few rows at a time and many.
#[test]
fn products() {
    let (inner, outer) = (256, 40);
    let w = numbers("w", &[outer, inner]);
    for rows in [1, 3, 9, 70] {
        let x = numbers("x", &[rows, inner]);
        for bad in BAD {
            let bad_w = with(&w, 33 * inner + 130, bad);
            let halves = |w: &Tensor| w.data().iter().map(|&w| f16::from_f32(w)).collect::<Vec<_>>();
            let brains = |w: &Tensor| w.data().iter().map(|&w| bf16::from_f32(w)).collect::<Vec<_>>();
            let check = |good: WeightView<'_, f32>, bad_w: WeightView<'_, f32>, what: &str| {
                let what = format!("{what}, {rows} rows, {bad}");
                let product = |x: &Tensor, w: WeightView<'_, f32>| {
                    let mut y = vec![0.0f32; rows * outer];
                    gemm::matmul_nt(&mut y, x.data(), w, inner, outer, false);
                    y
                };
                let y = product(&with(&x, (rows - 1) * inner + 200, bad), good);
                let (others, last) = y.split_at((rows - 1) * outer);
                assert!(crate::all_finite(others), "{what}: other rows");
                assert!(last.iter().all(|y| !y.is_finite()), "{what}: activations");
                for (at, y) in product(&x, bad_w).into_iter().enumerate() {
                    assert_eq!(y.is_finite(), at % outer != 33, "{what}: weights, {at}");
                }
                // The input gradient: sums over all weight rows.
                let mut dx = vec![0.0f32; rows * inner];
                let dy = with(&numbers("dy", &[rows, outer]), 5, bad);
                gemm::matmul_nn(&mut dx, dy.data(), good, outer, inner, false);
                assert!(dx[..inner].iter().all(|dx| !dx.is_finite()), "{what}: gradient");
                assert!(crate::all_finite(&dx[inner..]), "{what}: gradients of other rows");
            };
            check(WeightView::Full(w.data()), WeightView::Full(bad_w.data()), "f32");
            check(WeightView::F16(&halves(&w)), WeightView::F16(&halves(&bad_w)), "f16");
            check(WeightView::Bf16(&brains(&w)), WeightView::Bf16(&brains(&bad_w)), "bf16");
            for format in QuantizedFormat::ALL {
                let good = QuantizedMatrix::from_values(format, w.data(), [outer, inner], Device::Cpu);
                let good = good.unwrap_or_else(|_| unreachable!("numbers below 1 fit"));
                // The scale of the first block of the row.
                let mut bytes = good.bytes().to_vec();
                let at = 33 * format.row_bytes(inner);
                bytes[at..at + 2].copy_from_slice(&f16::from_f32(bad).to_le_bytes());
                let bytes = Tensor::from_vec(bytes, &[outer, format.row_bytes(inner)], Device::Cpu);
                let bad_w = QuantizedMatrix::new(format, bytes, [outer, inner]);
                check(good.view().into(), bad_w.view().into(), format.name());
            }
        }
    }
}
