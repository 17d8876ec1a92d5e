//! A checkpoint of random values, written as a stream: memory stays at some megabytes whatever the model's size.
//!
//! Values follow the initial distributions of the parameters. So that tens of gigabytes take minutes, a normal
//! distribution is drawn as one of 65,536 equally likely quantiles (of variance 1, the largest 4.2), in the type of the
//! file; the quantile of an element comes from a hash of seed, parameter name and position, so that parts can be made in any
//! order and on all cores.

use std::path::Path;

use otter_model::Otter;
use otter_nn::{Init, ParameterSpec, Real};
use rayon::prelude::*;

use crate::config_file::CheckpointConfig;
use crate::error::{CheckpointError, Result};
use crate::narrow::narrow;
use crate::safetensors_file::HeaderEntry;
use crate::save::{SaveOptions, write_checkpoint};

/// Elements made before they are written.
const CHUNK: usize = 1 << 22;
/// Elements that a thread makes at a time. A multiple of four.
const PART: usize = 1 << 16;
/// Values that a random element can take.
const QUANTILES: usize = 1 << 16;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initialised {
    /// Parameters.
    pub parameters: u64,
    /// Bytes of their elements.
    pub bytes: u64,
}

/// Writes a checkpoint with random values, replacing what stands there only when the new one is complete. After each part,
/// `progress` gets the bytes written so far and the bytes of all.
///
/// # Errors
/// When the sizes describe no model, an initial value does not fit the type, or the disk is full.
pub fn initialise_checkpoint(
    directory: &Path,
    config: &CheckpointConfig,
    seed: u64,
    options: &SaveOptions<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Initialised> {
    let (_, specs) = Otter::new(&config.model)
        .map_err(|error| CheckpointError::format(&directory.join("config.json"), error.to_string()))?;
    let specs: Vec<&ParameterSpec> = specs.iter().collect();
    let dtype = options.dtype.stored();
    let entries: Vec<HeaderEntry<'_>> =
        specs.iter().map(|spec| HeaderEntry { name: &spec.name, dtype, shape: &spec.shape }).collect();
    let total: u64 = entries.iter().map(HeaderEntry::bytes).sum();
    let normal = normal_quantiles();
    let mut written = 0;
    let mut buffer = vec![0; CHUNK * dtype.size()];
    write_checkpoint(directory, config, &entries, options, &mut |at, out| {
        let spec = specs[at];
        let mut table = Vec::new();
        narrow(&values(spec, &normal), dtype, &mut table).map_err(|error| CheckpointError::Tensor {
            path: directory.to_path_buf(),
            name: spec.name.clone(),
            problem: error.problem(),
        })?;
        let key = scrambled(seed ^ hash(&spec.name));
        for start in (0..spec.len()).step_by(CHUNK) {
            let bytes = &mut buffer[..CHUNK.min(spec.len() - start) * dtype.size()];
            match dtype.size() {
                2 => draw::<2>(bytes, &table, key, start),
                _ => draw::<4>(bytes, &table, key, start),
            }
            out.write_all(bytes).map_err(CheckpointError::write(directory, directory))?;
            written += bytes.len() as u64;
            progress(written, total);
        }
        Ok(())
    })?;
    Ok(Initialised { parameters: specs.iter().map(|spec| spec.len() as u64).sum(), bytes: total })
}

/// The values that the elements of a parameter take, all equally likely: one, or as many as there are quantiles.
fn values(spec: &ParameterSpec, normal: &[f64]) -> Vec<f32> {
    match spec.init {
        Init::Zeros => vec![0.0],
        Init::Ones => vec![1.0],
        Init::Normal(deviation) => normal.iter().map(|&z| (deviation * z) as f32).collect(),
        Init::FanInUniform => {
            let fan_in: usize = spec.shape.iter().skip(1).product();
            let bound = (1.0 / fan_in.max(1) as f64).sqrt();
            let middle = |at: usize| (2 * at + 1) as f64 / QUANTILES as f64 - 1.0;
            (0..QUANTILES).map(|at| (bound * middle(at)) as f32).collect()
        }
    }
}

/// Fills `bytes` with the elements from number `start` on; `table` holds the bytes of the values they can take.
fn draw<const SIZE: usize>(bytes: &mut [u8], table: &[u8], key: u64, start: usize) {
    let (table, _) = table.as_chunks::<SIZE>();
    let (elements, _) = bytes.as_chunks_mut::<SIZE>();
    elements.par_chunks_mut(PART).enumerate().for_each(|(part, elements)| {
        let Ok(table) = <&[[u8; SIZE]; QUANTILES]>::try_from(table) else {
            elements.fill(table[0]);
            return;
        };
        let first = (start + part * PART) as u64 / 4;
        for (four, elements) in elements.chunks_mut(4).enumerate() {
            let bits = scrambled(key.wrapping_add((first + four as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
            for (place, element) in elements.iter_mut().enumerate() {
                *element = table[(bits >> (16 * place)) as usize % QUANTILES];
            }
        }
    });
}

/// The finishing steps of SplitMix64 (Steele, Lea and Flood, 2014).
fn scrambled(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The middles of 65,536 equally likely parts of the standard normal distribution, scaled to variance 1.
fn normal_quantiles() -> Vec<f64> {
    let half = QUANTILES / 2;
    let mut upper = Vec::with_capacity(half);
    let mut z = 0.0f64;
    for at in 0..half {
        let share = (2 * at + 1) as f64 / (2 * half) as f64; // of the upper half that lies below z
        // Newton's method on erf(z / sqrt 2) = share, from the quantile before.
        for _ in 0..40 {
            let density = (2.0 / std::f64::consts::PI).sqrt() * (-z * z / 2.0).exp();
            let step = (Real::erf(z / std::f64::consts::SQRT_2) - share) / density;
            z -= step;
            if step.abs() < 1e-13 {
                break;
            }
        }
        upper.push(z);
    }
    let deviation = (upper.iter().map(|z| z * z).sum::<f64>() / half as f64).sqrt();
    let scaled = upper.iter().map(|z| z / deviation);
    scaled.clone().rev().map(|z| -z).chain(scaled).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        let all = normal_quantiles();
        assert_eq!(all.len(), QUANTILES);
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let variance = all.iter().map(|z| z * z).sum::<f64>() / all.len() as f64;
        assert!(mean.abs() < 1e-12 && (variance - 1.0).abs() < 1e-12);
        // 2.5 %, 50 % and 97.5 % of the distribution
        for (share, z) in [(0.025, -1.959_964), (0.5, 0.0), (0.975, 1.959_964), (0.8413447, 1.0)] {
            let found = all[(share * QUANTILES as f64) as usize];
            assert!((found - z).abs() < 2e-3, "{share}: {found}, not {z}");
        }
        assert!(all[QUANTILES - 1] > 4.1 && all[QUANTILES - 1] < 4.5);
    }

    #[test]
    fn drawn_elements_are_spread_evenly_and_do_not_depend_on_where_chunks_begin() {
        let numbers: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let key = scrambled(hash("some.weight"));
        let count = 3 * PART + 10;
        let mut whole = vec![0; 2 * count];
        draw::<2>(&mut whole, &numbers, key, 0);
        let mut rest = vec![0; 2 * (count - PART - 8)];
        draw::<2>(&mut rest, &numbers, key, PART + 8);
        assert_eq!(rest, whole[2 * (PART + 8)..]);
        let drawn: Vec<u16> = whole.as_chunks::<2>().0.iter().map(|&b| u16::from_le_bytes(b)).collect();
        let mut counts = [0usize; 16];
        drawn.iter().for_each(|&value| counts[usize::from(value >> 12)] += 1);
        let expected = count as f64 / 16.0;
        let chi_square: f64 = counts.iter().map(|&c| (c as f64 - expected).powi(2) / expected).sum();
        assert!(chi_square < 37.7, "{chi_square}: unlikely at 0.1 % for 15 degrees of freedom");
        let products =
            drawn.windows(2).map(|pair| (f64::from(pair[0]) - 32767.5) * (f64::from(pair[1]) - 32767.5));
        let correlation = products.sum::<f64>() / count as f64 / (65536.0f64.powi(2) / 12.0);
        assert!(correlation.abs() < 0.01, "{correlation}");
        let mut other = vec![0; 2 * count];
        draw::<2>(&mut other, &numbers, scrambled(1 ^ hash("some.weight")), 0);
        assert_ne!(whole, other);
        let mut constant = vec![0; 12];
        draw::<4>(&mut constant, &1.0f32.to_le_bytes(), key, 0);
        assert_eq!(constant.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).sum::<f32>(), 3.0);
    }
}
