//! Times CLIP ViT-L/14 on one image: `cargo run --release -p otter-dev --example vision_tower -- --repeats 5`.
//!
//! The other side is `bench/vision_tower.py`; weights and pixels of both come from one formula, so that their features can be
//! compared. `bench/compare.py --only vision` runs them in turn. Threads: `--threads 2`. With `--bits 8` the matrices of the
//! layers are timed in blocks of 8 bits (Q8_0), and the cosine of every patch's features with those in 32 bits is given.

use std::convert::Infallible;
use std::time::Instant;

use otter_model::config::VisionConfig;
use otter_model::vision::ClipVision;
use otter_nn::{
    Device, ParameterSpec, ParameterSpecs, Parameters, QuantizedFormat, QuantizedMatrix, Tensor, Weight,
};

fn main() {
    let number = |name: &str| {
        let mut arguments = std::env::args().skip_while(|argument| argument != name);
        arguments.nth(1).map(|text| text.parse::<usize>().expect("a number follows each option"))
    };
    let threads = number("--threads").unwrap_or(0);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("the pool starts");
    // Inside the pool: outside it this thread would sleep while others work.
    let bits = number("--bits").unwrap_or(32);
    rayon::scope(|_| measure(number("--repeats").unwrap_or(5), bits == 8));
}

fn measure(repeats: usize, in_blocks: bool) {
    let config = VisionConfig::clip_vit_l14();
    let mut specs = ParameterSpecs::default();
    let tower = ClipVision::new(&mut specs, "vision", &config);
    let Ok(mut parameters) =
        Parameters::build(&specs, Device::Cpu, |spec| Ok::<_, Infallible>(Weight::from(formula_value(spec))));
    let side = config.image_size;
    let pixels = uniform("pixels", &[1, 3, side, side], 0.0, 1.5);
    let exact = tower.forward(&parameters, &pixels);
    if in_blocks {
        let Ok(quantized) = Parameters::build(&specs, Device::Cpu, |spec| {
            Ok::<_, Infallible>(match spec.shape[..] {
                [_, width] if spec.name.contains(".layers.") && QuantizedFormat::Q8_0.fits(width) => {
                    in_8_bits(&formula_value(spec))
                }
                _ => formula_value(spec).into(),
            })
        });
        parameters = quantized;
    }
    let mut features = tower.forward(&parameters, &pixels);
    let seconds: Vec<f64> = (0..repeats)
        .map(|_| {
            let start = Instant::now();
            features = tower.forward(&parameters, &pixels);
            start.elapsed().as_secs_f64()
        })
        .collect();
    let width = config.hidden_size;
    let patches = exact.data().chunks_exact(width).zip(features.data().chunks_exact(width));
    let cosine = patches.map(|(a, b)| cosine(a, b)).fold(1.0, f64::min);
    println!(
        "{{\"vision_seconds\": {seconds:?}, \"features\": {:?}, \"least_cosine\": {cosine:?}, \"parameters\": {}, \"threads\": {}}}",
        &exact.data()[..8],
        parameters.total_count(),
        rayon::current_num_threads()
    );
}

fn in_8_bits(values: &Tensor) -> Weight {
    let shape = [values.rows(), values.width()];
    let matrix = QuantizedMatrix::from_values(QuantizedFormat::Q8_0, values.data(), shape, Device::Cpu);
    Weight::Quantized(matrix.expect("the formula gives ordinary numbers"))
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn formula_value(spec: &ParameterSpec) -> Tensor {
    let (center, amplitude) = match spec.shape.len() {
        1 if spec.name.ends_with(".weight") => (1.0, 0.125),
        1 => (0.0, 0.015_625),
        _ => (0.0, 0.031_25),
    };
    uniform(&spec.name, &spec.shape, center, amplitude)
}

/// `center + amplitude * u` with u in [-1, 1) from a hash of the element's index and the name.
fn uniform(name: &str, shape: &[usize], center: f32, amplitude: f32) -> Tensor {
    let seed = name.bytes().fold(0x811C_9DC5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let value = |index: usize| {
        let mut x = (index as u32).wrapping_mul(0x9E37_79B1).wrapping_add(seed);
        x = (x ^ (x >> 15)).wrapping_mul(0x85EB_CA77);
        x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE3D);
        x = (x ^ (x >> 16)) >> 8;
        (x as f32 / 8_388_608.0 - 1.0) * amplitude + center
    };
    Tensor::from_vec((0..shape.iter().product()).map(value).collect(), shape, Device::Cpu)
}
