//! Times CLIP ViT-L/14 on one image: `cargo run --release -p otter-model --example vision_tower -- [repetitions]`.

use std::time::Instant;

use otter_model::clip::ClipVision;
use otter_model::config::VisionConfig;
use otter_nn::{Device, ParameterSpecs, Parameters, Tensor};

fn main() {
    let repetitions = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    let config = VisionConfig {
        hidden_size: 1024,
        intermediate_size: 4096,
        num_hidden_layers: 24,
        num_attention_heads: 16,
        image_size: 224,
        patch_size: 14,
        num_channels: 3,
        layer_norm_eps: 1e-5,
    };
    let mut specs = ParameterSpecs::default();
    let tower = ClipVision::new(&mut specs, "vision", &config);
    let parameters = Parameters::<f32>::initialise(&specs, 1, Device::Cpu);
    let pixels = (0..3 * 224 * 224).map(|i| (i * 7919 % 2003) as f32 / 1001.5 - 1.0).collect();
    let pixels = Tensor::from_vec(pixels, &[1, 3, 224, 224], Device::Cpu);
    rayon::scope(|_| {
        let mut seconds: Vec<f64> = (0..=repetitions)
            .map(|_| {
                let start = Instant::now();
                std::hint::black_box(tower.forward(&parameters, &pixels));
                start.elapsed().as_secs_f64()
            })
            .skip(1)
            .collect();
        seconds.sort_by(f64::total_cmp);
        println!("{{\"median\": {}, \"min\": {}}}", seconds[seconds.len() / 2], seconds[0]);
    });
}
