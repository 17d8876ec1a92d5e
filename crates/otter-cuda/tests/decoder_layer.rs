//! A whole LLaMA decoder layer made of this crate's operations, forward and backward, against the host's layer: that nothing is
//! missing and that the pieces fit.
#![cfg(any(feature = "cuda", feature = "emulate"))]

mod common;

use std::collections::BTreeMap;

use common::{assert_close, gpu, numbers, on};
use otter_cuda::attention::{self, ForwardResult, Heads, InputGradients, Inputs};
use otter_cuda::rotary::RotaryAngles;
use otter_cuda::{Buffer, Gpu, Precision, elementwise, matmul, norm};
use otter_model::config::LlamaConfig;
use otter_model::decoder::Rows;
use otter_model::llama::LlamaLayer;
use otter_nn::kernels::attention::{HeadLayout, Span};
use otter_nn::layers::attention::AttentionMask;
use otter_nn::{Device, Gradients, ParameterSpecs, Parameters, Rotary, Tensor};

const BATCH: usize = 2;
const LENGTH: usize = 9;

/// Parameters of the layer and their gradients, by the last parts of their names.
struct OnCard {
    gpu: Gpu,
    weights: BTreeMap<String, Buffer<f32>>,
    gradients: BTreeMap<String, Buffer<f32>>,
}

impl OnCard {
    /// `to (+)= x w^T`.
    fn linear(&self, name: &str, x: &Buffer<f32>, width: usize, to: Option<Buffer<f32>>) -> Buffer<f32> {
        let w = &self.weights[name];
        let outer = w.len() / width;
        let accumulate = to.is_some();
        let fresh = || self.gpu.allocate(x.len() / width * outer).expect("memory");
        let mut y = to.unwrap_or_else(fresh);
        matmul::times_transposed(&mut y, x, w.into(), (width, outer), accumulate, Precision::F32)
            .expect("a launch");
        y
    }

    /// Adds the matrix's gradient; returns or adds to that of the input x (rows, width).
    fn linear_backward(
        &mut self,
        name: &str,
        (x, width): (&Buffer<f32>, usize),
        dy: &Buffer<f32>,
        to: Option<Buffer<f32>>,
    ) -> Buffer<f32> {
        let (w, dw) = (&self.weights[name], self.gradients.get_mut(name).expect("a gradient"));
        let outer = w.len() / width;
        matmul::add_transposed_times(dw, dy, x, (outer, width), Precision::F32).expect("a launch");
        let accumulate = to.is_some();
        let fresh = || self.gpu.allocate(x.len()).expect("memory");
        let mut dx = to.unwrap_or_else(fresh);
        matmul::times(&mut dx, dy, w.into(), (outer, width), accumulate, Precision::F32).expect("a launch");
        dx
    }

    fn norm(&self, name: &str, x: &Buffer<f32>, eps: f64) -> (Buffer<f32>, Buffer<f32>) {
        norm::forward(x, &self.weights[name], None, eps as f32, false).expect("a launch")
    }

    fn norm_backward(
        &mut self,
        name: &str,
        x: &Buffer<f32>,
        statistics: &Buffer<f32>,
        dy: &Buffer<f32>,
    ) -> Buffer<f32> {
        let d_gain = self.gradients.get_mut(name).expect("a gradient");
        norm::backward_gain(d_gain, None, dy, x, statistics).expect("a launch");
        norm::backward_input(dy, x, &self.weights[name], statistics, false).expect("a launch")
    }

    /// The layer on x and, from dy, the gradient of x.
    fn run(&mut self, config: &LlamaConfig, x: &Buffer<f32>, dy: &Buffer<f32>) -> (Buffer<f32>, Buffer<f32>) {
        let (width, inner, eps) = (config.hidden_size, config.intermediate_size, config.rms_norm_eps);
        let (size, key_width) = (config.head_dim(), config.num_key_value_heads * config.head_dim());
        let positions: Vec<u32> = (0..BATCH).flat_map(|_| 0..LENGTH as u32).collect();
        let rotary = Rotary::new(size, config.rope_theta);
        let angles = RotaryAngles::new(&self.gpu, &rotary, &positions).expect("memory");
        let heads = Heads {
            heads: config.num_attention_heads,
            key_heads: config.num_key_value_heads,
            scale: 1.0 / (size as f64).sqrt(),
            slopes: None,
        };
        let (layout, key_layout) =
            (HeadLayout::new(LENGTH, width, size), HeadLayout::new(LENGTH, key_width, size));
        let span = |batch| {
            let causal_offset = Some(0);
            Span { batch, row: 0, rows: LENGTH, key_batch: batch, key_row: 0, keys: LENGTH, causal_offset }
        };
        let spans: Vec<Span> = (0..BATCH).map(span).collect();

        let (normed, statistics) = self.norm("input_layernorm", x, eps);
        let mut q = self.linear("self_attn.q_proj", &normed, width, None);
        let mut k = self.linear("self_attn.k_proj", &normed, width, None);
        let v = self.linear("self_attn.v_proj", &normed, width, None);
        angles.rotate(&mut q).expect("a launch");
        angles.rotate(&mut k).expect("a launch");
        let mut attended = self.gpu.allocate(q.len()).expect("memory");
        let mut log_sums = self.gpu.zeros(BATCH * heads.heads * LENGTH).expect("memory");
        let inputs = Inputs {
            q: &q,
            q_layout: layout,
            k: &k,
            k_layout: key_layout,
            v: &v,
            v_layout: key_layout,
            visible: None,
        };
        let sums = Some((&mut log_sums, LENGTH));
        attention::forward(&heads, &inputs, &spans, &mut attended, layout, sums).expect("a launch");
        let residual = x.duplicate().expect("memory");
        let middle = self.linear("self_attn.o_proj", &attended, width, Some(residual));
        let (normed_2, statistics_2) = self.norm("post_attention_layernorm", &middle, eps);
        let gate = self.linear("mlp.gate_proj", &normed_2, width, None);
        let up = self.linear("mlp.up_proj", &normed_2, width, None);
        let product = elementwise::silu_product(&gate, &up).expect("a launch");
        let residual = middle.duplicate().expect("memory");
        let y = self.linear("mlp.down_proj", &product, inner, Some(residual));

        let mut d_up = self.linear_backward("mlp.down_proj", (&product, inner), dy, None);
        let d_gate = elementwise::silu_product_backward(&gate, &up, &mut d_up).expect("a launch");
        let d_normed = self.linear_backward("mlp.gate_proj", (&normed_2, width), &d_gate, None);
        let d_normed = self.linear_backward("mlp.up_proj", (&normed_2, width), &d_up, Some(d_normed));
        let mut d_middle = self.norm_backward("post_attention_layernorm", &middle, &statistics_2, &d_normed);
        elementwise::add_scaled(&mut d_middle, dy, 1.0).expect("a launch");
        let d_out = self.linear_backward("self_attn.o_proj", (&attended, width), &d_middle, None);
        let zeros = |like: &Buffer<f32>| self.gpu.zeros(like.len()).expect("memory");
        let (mut dq, mut dk, mut dv) = (zeros(&q), zeros(&k), zeros(&v));
        let rows_per_batch = LENGTH;
        let result =
            ForwardResult { out: &attended, d_out: &d_out, layout, log_sums: &log_sums, rows_per_batch };
        let mut gradients = InputGradients {
            dq: &mut dq,
            dk: &mut dk,
            dk_layout: key_layout,
            dv: &mut dv,
            dv_layout: key_layout,
        };
        attention::backward(&heads, &inputs, &spans, &result, &mut gradients).expect("a launch");
        angles.rotate_back(&mut dq).expect("a launch");
        angles.rotate_back(&mut dk).expect("a launch");
        let d_normed = self.linear_backward("self_attn.q_proj", (&normed, width), &dq, None);
        let d_normed = self.linear_backward("self_attn.k_proj", (&normed, width), &dk, Some(d_normed));
        let d_normed = self.linear_backward("self_attn.v_proj", (&normed, width), &dv, Some(d_normed));
        let mut dx = self.norm_backward("input_layernorm", x, &statistics, &d_normed);
        elementwise::add_scaled(&mut dx, &d_middle, 1.0).expect("a launch");
        (y, dx)
    }
}

#[test]
fn a_decoder_layer_is_the_hosts() {
    let config = LlamaConfig {
        hidden_size: 24,
        intermediate_size: 40,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        ..LlamaConfig::llama_7b(16)
    };
    let mut specs = ParameterSpecs::default();
    let layer = LlamaLayer::new(&mut specs, "l", &config);
    let mut seed = 0;
    let Ok(mut parameters) = Parameters::build(&specs, Device::Cpu, |spec| {
        seed += 1;
        let values = numbers(spec.len(), seed).iter().map(|v| v * 0.3).collect();
        Ok::<_, std::convert::Infallible>(Tensor::from_vec(values, &spec.shape, Device::Cpu))
    });
    parameters.set_trainable(|_| true);
    let shape = [BATCH * LENGTH, config.hidden_size];
    let x = Tensor::from_vec(numbers(shape[0] * shape[1], 100), &shape, Device::Cpu);
    let dy = Tensor::from_vec(numbers(shape[0] * shape[1], 101), &shape, Device::Cpu);

    let gpu = gpu();
    let short = |name: &str| name.trim_start_matches("l.").trim_end_matches(".weight").to_owned();
    let weights = parameters.iter().map(|p| (short(&p.name), on(&gpu, &p.tensor.values())));
    let weights: BTreeMap<_, _> = weights.collect();
    let zeros = weights.iter().map(|(name, w)| (name.clone(), gpu.zeros(w.len()).expect("memory"))).collect();
    let mut card = OnCard { gpu: gpu.clone(), weights, gradients: zeros };
    let (found, found_dx) = card.run(&config, &on(&gpu, x.data()), &on(&gpu, dy.data()));

    let positions: Vec<u32> = (0..BATCH).flat_map(|_| 0..LENGTH as u32).collect();
    let mask = AttentionMask::Causal { offset: 0, visible: None };
    let rows = Rows { batch: BATCH, positions: &positions, mask: &mask };
    let mut gradients = Gradients::new(&parameters);
    let (y, saved) = layer.forward_saved(&parameters, x, &rows);
    let dx = layer.backward(&parameters, saved, &rows, dy, &mut gradients);
    assert_close(&found, y.data(), 3e-6, "output");
    assert_close(&found_dx, dx.data(), 1e-5, "gradient of the input");
    for (index, parameter) in parameters.iter().enumerate() {
        let name = short(&parameter.name);
        let expected = gradients.part(index).expect("it is trained");
        assert_close(&card.gradients[&name], &expected, 1e-5, &name);
    }
}
