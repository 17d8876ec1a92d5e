//! Filters, and the weights that they give to the inputs of an output.

use std::f64::consts::PI;
use std::ops::Range;

/// Fraction bits of a weight.
pub(crate) const PRECISION_BITS: u32 = 22;

/// An interpolation filter and how far it reaches.
#[derive(Clone, Copy)]
pub(crate) struct Filter {
    weight: fn(f64) -> f64,
    support: f64,
}

pub(crate) const BICUBIC: Filter = Filter { weight: bicubic, support: 2.0 };
pub(crate) const LANCZOS: Filter = Filter { weight: lanczos, support: 3.0 };

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

fn lanczos(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

/// For each output position: the first input position and the weights from there on.
pub(crate) struct Weights {
    starts: Vec<(usize, usize)>, // (first input, number of weights)
    values: Vec<i32>,            // (output, per_output)
    per_output: usize,
}

impl Weights {
    /// Weights of the outputs in `window` when `input` samples become `output` samples.
    pub(crate) fn new(filter: Filter, input: usize, output: usize, window: Range<usize>) -> Self {
        let scale = input as f64 / output as f64;
        let filter_scale = scale.max(1.0);
        let support = filter.support * filter_scale;
        let per_output = support.ceil() as usize * 2 + 1;
        let mut starts = Vec::with_capacity(window.len());
        let mut values = vec![0; window.len() * per_output];
        let mut row = Vec::with_capacity(per_output);
        for (slot, position) in window.enumerate() {
            let center = (position as f64 + 0.5) * scale;
            let inverse = 1.0 / filter_scale;
            let first = ((center - support + 0.5) as i64).max(0) as usize;
            let last = ((center + support + 0.5) as i64).clamp(0, input as i64) as usize;
            row.clear();
            row.extend((first..last).map(|i| (filter.weight)((i as f64 - center + 0.5) * inverse)));
            let sum: f64 = row.iter().sum();
            for (weight, fixed) in row.iter().zip(&mut values[slot * per_output..]) {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                let scaled = weight * f64::from(1_u32 << PRECISION_BITS);
                *fixed = (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32;
            }
            starts.push((first, last - first));
        }
        Self { starts, values, per_output }
    }

    /// The input positions that any output looks at.
    pub(crate) fn inputs(&self) -> Range<usize> {
        let start = self.starts.iter().map(|(first, _)| *first).min().unwrap_or(0);
        let end = self.starts.iter().map(|(first, count)| first + count).max().unwrap_or(0);
        start..end
    }

    /// Number of output positions.
    pub(crate) fn outputs(&self) -> usize {
        self.starts.len()
    }

    /// First input position and weights of an output position.
    pub(crate) fn of(&self, position: usize) -> (usize, &[i32]) {
        let (first, count) = self.starts[position];
        let offset = position * self.per_output;
        (first, &self.values[offset..offset + count])
    }
}
