//! What holds for a block of any kind, and for the layer of every family.

use super::*;
use crate::config::TextConfig;
use crate::text::attention::InputNames;
use crate::text::mlp::MlpForm;
use otter_nn::testing::gradient_check::{check, random_parameters, random_tensor};
use otter_nn::{ActivationKind, AttentionMask, Init, ParameterSpecs, Rotary, SelfAttentionCore};

/// What holds for a decoder layer of every language model, of `width` features.
pub(crate) fn check_layer(config: &TextConfig, width: usize) {
    let mut specs = ParameterSpecs::default();
    let block = config.block(&mut specs, "l");
    check_block(&specs, &block, width);
}

fn check_block(specs: &ParameterSpecs, block: &TransformerBlock, width: usize) {
    gradients_match_finite_differences(specs, block, width);
    a_frozen_layer_gives_the_same_input_gradient(specs, block, width);
    cached_rows_equal_the_whole_pass(specs, block, width);
    rows_in_place_equal_the_whole_pass(specs, block, width);
}

fn causal(offset: usize) -> AttentionMask {
    AttentionMask::Causal { offset, visible: None }
}

fn gradients_match_finite_differences(specs: &ParameterSpecs, block: &TransformerBlock, width: usize) {
    let positions = [0, 1, 2, 0, 1, 2];
    let visible = Some(vec![true, true, true, false, true, true]);
    for mask in [causal(0), AttentionMask::Causal { offset: 0, visible }] {
        let rows = Rows { batch: 2, positions: &positions, mask: &mask };
        check(
            specs,
            &[random_tensor("x", &[6, width])],
            |p, x| block.forward_saved(p, x[0].clone(), &rows).0,
            |p, x, dy, g| {
                let (_, saved) = block.forward_saved(p, x[0].clone(), &rows);
                vec![block.backward(p, saved, &rows, dy.clone(), g)]
            },
        );
    }
}

fn a_frozen_layer_gives_the_same_input_gradient(
    specs: &ParameterSpecs,
    block: &TransformerBlock,
    width: usize,
) {
    let rows = Rows { batch: 1, positions: &[0, 1, 2], mask: &causal(0) };
    let mut parameters = random_parameters(specs);
    let (x, dy) = (random_tensor("x", &[3, width]), random_tensor("dy", &[3, width]));
    let run = |parameters: &Parameters<f64>| {
        let mut gradients = Gradients::new(parameters);
        let (_, saved) = block.forward_saved(parameters, x.clone(), &rows);
        block.backward(parameters, saved, &rows, dy.clone(), &mut gradients).into_vec()
    };
    let trained = run(&parameters);
    parameters.set_trainable(|_| false);
    assert_eq!(trained, run(&parameters));
}

fn cached_rows_equal_the_whole_pass(specs: &ParameterSpecs, block: &TransformerBlock, width: usize) {
    let parameters = random_parameters(specs);
    let x = random_tensor("x", &[2 * 5, width]);
    let positions = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4];
    let rows = Rows { batch: 2, positions: &positions, mask: &causal(0) };
    let (whole, _) = block.forward_saved(&parameters, x.clone(), &rows);
    let mut cache = block.new_cache(2, 6, x.device());
    let part = |range: std::ops::Range<usize>| {
        let rows: Vec<f64> = (0..2)
            .flat_map(|b| x.data()[(b * 5 + range.start) * width..(b * 5 + range.end) * width].to_vec())
            .collect();
        Tensor::from_vec(rows, &[2 * range.len(), width], x.device())
    };
    let mut workspace = Workspace::new(x.device());
    for range in [0..3, 3..4, 4..5] {
        let positions: Vec<u32> = (0..2).flat_map(|_| range.clone().map(|p| p as u32)).collect();
        let mask = causal(range.start);
        let rows = Rows { batch: 2, positions: &positions, mask: &mask };
        let mut y = part(range.clone());
        let cache = Some((&mut cache, range.start));
        block.forward(&parameters, &mut y, &rows, cache, &mut workspace);
        let y = y.data();
        for b in 0..2 {
            let got = &y[b * range.len() * width..][..range.len() * width];
            let want = &whole.data()[(b * 5 + range.start) * width..(b * 5 + range.end) * width];
            assert!(got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-12));
        }
    }
}

fn rows_in_place_equal_the_whole_pass(specs: &ParameterSpecs, block: &TransformerBlock, width: usize) {
    let parameters = random_parameters(specs);
    let mut x = random_tensor("x", &[2 * 3, width]);
    let mask = AttentionMask::Full;
    let rows = Rows { batch: 2, positions: &[0, 1, 2, 0, 1, 2], mask: &mask };
    let (whole, _) = block.forward_saved(&parameters, x.clone(), &rows);
    let mut workspace = Workspace::new(x.device());
    block.forward(&parameters, &mut x, &rows, None, &mut workspace);
    assert!(x.data().iter().zip(whole.data()).all(|(a, b)| (a - b).abs() < 1e-12));
}

/// All combinations of norms, projections, limits and norms of queries and keys, positions, feed-forwards and joins.
#[test]
fn every_combination_passes_every_check() {
    const WIDTH: usize = 6;
    let norms = [NormSpec::Layer { eps: 1e-5, bias: true }, NormSpec::Rms { eps: 1e-5 }];
    let inputs =
        [InputNames::Separate(["q", "k", "v"]), InputNames::Grouped("qkv"), InputNames::Fused("qkv")];
    let limits = [(None, false), (Some(0.6), false), (Some(0.6), true)];
    let forms = [MlpForm::Plain(ActivationKind::Gelu), MlpForm::Gated("gate")];
    let mut number = 0;
    for (norm, inputs, (clip, head_norms), form) in choices(&norms, &inputs, &limits, &forms) {
        for join in 0..4 {
            number += 1;
            let mut specs = ParameterSpecs::default();
            let mut parts = BlockParts { specs: &mut specs, name: "l", width: WIDTH };
            let init = [Init::Normal(0.3); 2];
            let (key_heads, head_size) = (2, 2);
            let mut core = SelfAttentionCore::new(4, key_heads, head_size);
            // Rotary positions and ALiBi, with and without biases, in turn.
            let rotary = number % 2 == 0;
            core.slopes = (!rotary).then(|| vec![0.5, 0.25, 0.125, 0.0625]);
            let rotary = rotary.then(|| Rotary::new(head_size, 100.0));
            let bias = number % 3 == 0;
            let mut attention =
                parts.attention(AttentionSpec { inputs, output: "out", bias, init, clip, rotary, core });
            if head_norms {
                let queries = parts.norm_of("q_ln", norm, 4 * head_size);
                attention = attention.with_norms(queries, parts.norm_of("k_ln", norm, key_heads * head_size));
            }
            let mlp = parts.mlp(&MlpSpec { form, up: "up", down: "down", inner: 5, bias, init });
            let first = parts.norm("n1", norm);
            let residual = match join {
                0 => Residual::PreNorm(first, parts.norm("n2", norm)),
                1 => Residual::PostNorm(first, parts.norm("n2", norm)),
                2 => Residual::Parallel(first),
                _ => Residual::ParallelTwoNorms(first, parts.norm("n2", norm)),
            };
            check_block(&specs, &TransformerBlock { residual, attention, mlp }, WIDTH);
        }
    }
}

/// Every choice of one of each.
fn choices<'a, A: Copy, B: Copy, C: Copy, D: Copy>(
    a: &'a [A],
    b: &'a [B],
    c: &'a [C],
    d: &'a [D],
) -> impl Iterator<Item = (A, B, C, D)> {
    let inner = move |(a, b): (A, B)| c.iter().flat_map(move |&c| d.iter().map(move |&d| (a, b, c, d)));
    a.iter().flat_map(move |&a| b.iter().map(move |&b| (a, b))).flat_map(inner)
}
