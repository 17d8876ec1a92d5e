//! The activation plan against the measured peak. Alone in its file: freed memory of another test would hide the peak.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests")]

use otter_model::config::{LlamaConfig, OtterConfig, VisionConfig};
use otter_model::{FreezeRule, LossScale, Otter, TextInput, VisionInput};
use otter_nn::{Device, Gradients, Parameters, Tensor};
use otter_train::memory::{BatchShape, peak_bytes, reset_peak, resident_bytes};
use otter_train::memory::{TrainedParts, activation_plan};

const BATCH: usize = 2;
const LENGTH: usize = 512;
const IMAGE_TOKEN: u32 = 3;

fn config() -> OtterConfig {
    let mut config = OtterConfig::otter_9b();
    config.text = LlamaConfig {
        hidden_size: 256,
        intermediate_size: 688,
        num_hidden_layers: 8,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        ..LlamaConfig::llama_7b(2000)
    }
    .into();
    config.vision = VisionConfig {
        hidden_size: 128,
        intermediate_size: 512,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        image_size: 56,
        ..VisionConfig::clip_vit_l14()
    };
    config
}

#[test]
fn the_plan_is_near_the_measured_peak() {
    let config = config();
    let (otter, specs) = Otter::new(&config).unwrap();
    let mut parameters = Parameters::<f32>::initialize(&specs, 1, Device::Cpu);
    parameters.set_trainable(|name| FreezeRule::Head.is_trainable(&config, name));
    let mut gradients = Gradients::new(&parameters);
    // Zeroed pages are not resident before they are written.
    gradients.iter_mut().for_each(|g| *g = 1.0);
    let ids: Vec<u32> = (0..BATCH * LENGTH)
        .map(|i| if i % LENGTH == 0 { IMAGE_TOKEN } else { 10 + i as u32 % 1900 })
        .collect();
    let labels: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let text = TextInput {
        ids,
        attention_mask: vec![true; BATCH * LENGTH],
        batch: BATCH,
        length: LENGTH,
        segments: None,
        media_token_id: IMAGE_TOKEN,
    };
    let vision = VisionInput {
        pixels: Tensor::from_vec(vec![0.1; BATCH * 3 * 56 * 56], &[BATCH, 3, 56, 56], Device::Cpu),
        media_frames: vec![0..1, 1..2],
        slots: vec![vec![0], vec![1]],
    };
    let shape = BatchShape {
        batch: BATCH,
        length: LENGTH,
        frames: BATCH,
        media: BATCH,
        targets: BATCH * (LENGTH - 1),
    };
    let parts = TrainedParts { first_layer: 0, vision: false };
    let plan = |recompute| -> u64 {
        activation_plan(&config, &shape, parts, recompute).iter().map(|item| item.bytes).sum()
    };
    // The smaller run first, so that its freed memory cannot hide the peak of the larger one.
    for recompute in [true, false] {
        let before = resident_bytes().unwrap();
        reset_peak();
        let scale = LossScale::Mean;
        otter
            .forward_backward(&parameters, Some(&vision), &text, &labels, scale, recompute, &mut gradients)
            .unwrap();
        let (planned, measured) = (plan(recompute) as f64, (peak_bytes().unwrap() - before) as f64);
        println!("recompute {recompute}: planned {planned:.2e}, measured {measured:.2e}");
        if recompute {
            assert!(measured < 1.3 * planned, "planned {planned}, measured {measured}");
        } else {
            // What the first run left in the allocator counts as resident already.
            let slack = plan(true) as f64;
            assert!(measured < 1.3 * planned, "planned {planned}, measured {measured}");
            assert!(measured + slack > 0.7 * planned, "planned {planned}, measured {measured}");
        }
    }
}
