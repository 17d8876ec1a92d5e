//! A token in steady state allocates nothing: counted by the allocator of this process, over all its threads.

#[path = "it/small_models/mod.rs"]
mod small_models;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use otter_model::config::{LlamaConfig, OtterConfig};
use otter_model::generate::{Decoding, GenerationOptions, PromptBatch};
use otter_model::{Otter, VisionInput};
use otter_nn::testing::gradient_check::random_tensor;
use otter_nn::{Device, Parameters, QuantizedFormat, QuantizedMatrix, Weight};
use small_models::{IMAGE, config, other_language_models};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is the system allocator's; only a number is counted besides.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: by the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: by the caller's contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: by the caller's contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations between consecutive tokens.
fn allocations(otter: &Otter, parameters: &Parameters<f32>, decoding: Decoding) -> Vec<usize> {
    let vision = VisionInput {
        pixels: random_tensor("pixels", &[1, 3, 4, 4]).cast::<f32>(),
        media_frames: std::iter::once(0..1).collect(),
        slots: vec![vec![0]],
    };
    let prompts = PromptBatch::new(&[vec![1, IMAGE, 5, 7]], 0, IMAGE).expect("prompts have tokens");
    let options = GenerationOptions { stop_tokens: Vec::new(), decoding, ..GenerationOptions::greedy(6, 0) };
    let mut counts = Vec::with_capacity(64);
    let mut note = |_: usize, _: u32| {
        counts.push(ALLOCATIONS.load(Ordering::Relaxed));
        true
    };
    otter.generate(parameters, Some(&vision), &prompts, &options, &mut note).expect("the input fits");
    counts.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// One test, because others in this process would be counted too.
#[test]
fn a_token_in_steady_state_allocates_nothing() {
    let mut configs = vec![config()];
    configs.extend(other_language_models().into_iter().map(|text| {
        let tie_word_embeddings = text.must_be_tied();
        OtterConfig { text, tie_word_embeddings, ..config() }
    }));
    for mut config in configs {
        let kind = format!("{:?}", config.text);
        config.perceiver.max_num_frames = None;
        let (otter, specs) = Otter::new(&config).expect("sizes are sound");
        let parameters = Parameters::<f32>::initialize(&specs, 1, Device::Cpu);
        rayon::scope(|_| {
            for decoding in [Decoding::Keep, Decoding::Reference] {
                let found = allocations(&otter, &parameters, decoding);
                // The first step takes the buffers.
                assert!(found[1..].iter().all(|&count| count == 0), "{found:?} in {kind}");
            }
        });
    }
    quantized_matrices_need_no_memory_either();
}

fn quantized_matrices_need_no_memory_either() {
    let mut config = config();
    config.perceiver.max_num_frames = None;
    let text = LlamaConfig {
        hidden_size: 256,
        intermediate_size: 512,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        ..LlamaConfig::llama_7b(320)
    };
    config.text = text.into();
    let (otter, specs) = Otter::new(&config).expect("sizes are sound");
    let plain = Parameters::<f32>::initialize(&specs, 1, Device::Cpu);
    for format in QuantizedFormat::ALL {
        let parameters = Parameters::build(&specs, Device::Cpu, |spec| {
            let weight = plain.by_name(&spec.name).expect("same names").tensor.clone();
            let &[rows, width] = spec.shape.as_slice() else { return Ok(weight) };
            if !spec.low_precision || !format.fits(width) {
                return Ok(weight);
            }
            let matrix = QuantizedMatrix::from_values(format, &weight.values(), [rows, width], Device::Cpu)?;
            Ok::<_, otter_nn::tensor::quantized::OutOfRange>(Weight::Quantized(matrix))
        })
        .expect("values are small");
        assert!(parameters.quantized_count() > 0);
        rayon::scope(|_| {
            let found = allocations(&otter, &parameters, Decoding::Keep);
            assert!(found[1..].iter().all(|&count| count == 0), "{found:?} with {}", format.name());
        });
    }
}
