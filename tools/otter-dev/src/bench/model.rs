//! The model of `otter-dev bench`: of given sizes with weights by a formula or in random blocks, or a checkpoint.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use otter_checkpoint::{LoadOptions, NAMED_MODELS, NamedModel, quantized_format};
use otter_cli::commands::generate::model::{device, load_with};
use otter_cli::output;
use otter_model::config::{CrossAttentionConfig, LlamaConfig, OtterConfig, PerceiverConfig, VisionConfig};
use otter_model::{FreezeRule, Otter};
use otter_nn::{
    Device, ParameterSpec, ParameterSpecs, Parameters, QuantizedFormat, QuantizedMatrix, Tensor, Weight,
};

use otter_io::text::parse_bytes;

use crate::arguments::{Bench, BenchPreset, BenchRow};

/// What is timed.
pub(super) struct BenchModel {
    pub(super) otter: Otter,
    pub(super) parameters: Parameters<f32>,
}

/// Makes or loads the model that the arguments name.
pub(super) fn build(arguments: &Bench) -> Result<BenchModel> {
    let device = device(&arguments.device)?;
    if let Some(size) = &arguments.memory {
        let gpu = device.gpu().context("--memory limits a GPU: it needs --device cuda")?;
        gpu.limit(parse_bytes(size).map_err(|problem| anyhow!("--memory {size}: {problem}"))?);
    }
    let mut model = build_here(arguments)?;
    if arguments.only == [BenchRow::Train] {
        // Widened before it goes to a GPU.
        let BenchModel { otter, parameters } = &mut model;
        parameters.set_trainable(|name| FreezeRule::Head.is_trainable(otter.config(), name));
    }
    model.parameters.move_to(device)?;
    Ok(model)
}

fn build_here(arguments: &Bench) -> Result<BenchModel> {
    let quantize = arguments.quantize;
    if let Some(path) = &arguments.model {
        let model = load_with(path, Device::Cpu, LoadOptions { quantize, keep: None })?;
        return Ok(BenchModel { otter: model.otter, parameters: model.parameters });
    }
    let config = match &arguments.like {
        Some(name) => config_of(name)?,
        None => match arguments.preset {
            BenchPreset::Mid => mid_size(),
            BenchPreset::Toybox => otter_toybox::quickstart::base::config(),
        },
    };
    let (otter, specs) = Otter::new(&config)?;
    check_memory(&specs, quantize)?;
    let pool = quantize.map(|format| Ok::<_, anyhow::Error>((format, Pool::all()?))).transpose()?;
    let parameters = Parameters::build(&specs, Device::Cpu, |spec| {
        let format =
            pool.as_ref().and_then(|(wanted, pools)| Some((quantized_format(spec, *wanted)?, pools)));
        Ok::<_, anyhow::Error>(match format {
            Some((format, pools)) => Weight::Quantized(pools.matrix(format, spec)),
            None => Weight::Full(formula_value(spec)),
        })
    })?;
    Ok(BenchModel { otter, parameters })
}

fn config_of(name: &str) -> Result<OtterConfig> {
    if let Some(model) = NamedModel::find(name) {
        return Ok(model.config().model);
    }
    let names: Vec<&str> = NAMED_MODELS.iter().map(|model| model.name).collect();
    bail!("--like takes one of {}, not '{name}'", names.join(", "))
}

/// A model that does not fit would bring the machine to its knees before it is made.
fn check_memory(specs: &ParameterSpecs, quantize: Option<QuantizedFormat>) -> Result<()> {
    let needed: u64 = specs.iter().map(|spec| bytes(spec, quantize)).sum();
    if let Some(available) = available_bytes()
        && needed > available
    {
        bail!(
            "the weights take {}, but {} of memory are free; choose a smaller model or --quantize q4_k",
            output::bytes(needed),
            output::bytes(available)
        );
    }
    Ok(())
}

fn bytes(spec: &ParameterSpec, quantize: Option<QuantizedFormat>) -> u64 {
    match (quantize.and_then(|wanted| quantized_format(spec, wanted)), spec.shape.as_slice()) {
        (Some(format), [rows, width]) => (rows * format.row_bytes(*width)) as u64,
        _ => 4 * spec.len() as u64,
    }
}

/// Memory that can be had without swapping; `None` where the system does not tell.
pub(super) fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string(Path::new("/proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A tower of ViT-B/32's size and a language model of 12 layers of 768, cross-attention every 4.
fn mid_size() -> OtterConfig {
    OtterConfig {
        vision: VisionConfig {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 224,
            patch_size: 32,
            num_channels: 3,
            layer_norm_eps: 1e-5,
        },
        perceiver: PerceiverConfig::default(),
        cross_attention: CrossAttentionConfig::default(),
        text: LlamaConfig {
            hidden_size: 768,
            intermediate_size: 2048,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_key_value_heads: 12,
            ..LlamaConfig::llama_7b(32004)
        }
        .into(),
        tie_word_embeddings: false,
        train_vision_encoder: false,
        train_lang_encoder: false,
        train_full_model: false,
    }
}

/// Starting value of one parameter: gates half open, so that the cross-attention counts; norm weights around 1.
pub(super) fn formula_value(spec: &ParameterSpec) -> Tensor {
    let (name, shape) = (spec.name.as_str(), spec.shape.as_slice());
    let (center, amplitude) = if name.ends_with("_gate") {
        (0.5, 0.0)
    } else if shape.len() == 1 && name.ends_with(".weight") {
        (1.0, 0.125)
    } else if name.ends_with("latents") {
        (0.0, 1.5)
    } else if shape.len() > 1 {
        (0.0, 0.03125)
    } else {
        (0.0, 0.015625)
    };
    uniform(name, shape, center, amplitude)
}

/// `center + amplitude * u` with u in [-1, 1) from a hash of the element's index and the name.
pub(super) fn uniform(name: &str, shape: &[usize], center: f32, amplitude: f32) -> Tensor {
    let seed = seed(name);
    let value = |index: usize| {
        let x = hash((index as u32).wrapping_mul(0x9E37_79B1).wrapping_add(seed)) >> 8;
        (x as f32 / 8_388_608.0 - 1.0) * amplitude + center
    };
    let data = (0..shape.iter().product()).map(value).collect();
    Tensor::from_vec(data, shape, Device::Cpu)
}

fn seed(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

fn hash(mut x: u32) -> u32 {
    x = (x ^ (x >> 15)).wrapping_mul(0x85EB_CA77);
    x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE3D);
    x ^ (x >> 16)
}

/// Blocks of weights like [`formula_value`]'s. Matrices take their rows from random places of a pool: billions of weights
/// in seconds, and what a product costs does not depend on their values.
struct Pool {
    formats: [(QuantizedFormat, Vec<u8>); 2],
}

/// Elements of a pool; rows are shorter.
const POOL: usize = 1 << 20;

impl Pool {
    fn all() -> Result<Self> {
        let values = uniform("blocks", &[POOL], 0.0, 0.03125);
        let pool = |format: QuantizedFormat| -> Result<_> {
            let mut bytes = vec![0; format.row_bytes(POOL)];
            if let Err(value) = format.encode_parallel(values.data(), &mut bytes) {
                bail!("{value:?} cannot be quantized");
            }
            Ok((format, bytes))
        };
        let [a, b] = QuantizedFormat::ALL;
        Ok(Self { formats: [pool(a)?, pool(b)?] })
    }

    fn matrix(&self, format: QuantizedFormat, spec: &ParameterSpec) -> QuantizedMatrix {
        let [(_, first), (other, second)] = &self.formats;
        let pool = if *other == format { second } else { first };
        let (rows, width) = (spec.shape[0], spec.shape[1]);
        let row_bytes = format.row_bytes(width);
        let places = (pool.len() - row_bytes) / format.block_bytes() + 1;
        let seed = seed(&spec.name);
        let mut bytes = Vec::with_capacity(rows * row_bytes);
        for row in 0..rows as u32 {
            let place = hash(row.wrapping_mul(0x9E37_79B1).wrapping_add(seed)) as usize % places;
            bytes.extend_from_slice(&pool[place * format.block_bytes()..][..row_bytes]);
        }
        let bytes = Tensor::from_vec(bytes, &[rows, row_bytes], Device::Cpu);
        QuantizedMatrix::new(format, bytes, [rows, width])
    }
}

#[cfg(test)]
mod tests {
    use otter_nn::Init;

    use super::*;

    /// `fill_uniform` of `bench/otter_torch.py` gives these.
    #[test]
    fn the_formula_is_that_of_the_other_side() {
        let found = uniform("perceiver.latents", &[4], 0.0, 1.5);
        assert_eq!(found.data(), [0.353_905_14, -0.015_925_527, 1.471_342_3, 0.737_682_76]);
    }

    #[test]
    fn random_blocks_are_ordinary_weights() -> Result<()> {
        let pool = Pool::all()?;
        let spec =
            ParameterSpec { name: "w".into(), shape: vec![16, 512], init: Init::Zeros, low_precision: true };
        for format in QuantizedFormat::ALL {
            let weight: Weight<f32> = Weight::Quantized(pool.matrix(format, &spec));
            let values = weight.values();
            let deviation = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
            assert!((0.017..0.019).contains(&deviation), "{deviation}");
            assert_ne!(values[..512], values[512..1024]);
        }
        Ok(())
    }
}
