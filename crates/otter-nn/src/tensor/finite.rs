//! Numbers that are not finite, and where they are. Results are looked at always, which costs one pass; weights only when a
//! result is not finite.

use rayon::prelude::*;

use crate::backend::cpu::sum_of;
use crate::{Device, Float, Parameters, Weight, vectorized};

/// Elements that are looked at together.
const PART: usize = 1 << 16;

/// How many of some numbers are not finite, and the first of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotFinite {
    /// Number of NaNs.
    pub nan: u64,
    /// Number of positive and negative infinities.
    pub infinite: u64,
    /// Index of the first of either.
    pub first: u64,
}

impl std::fmt::Display for NotFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { nan, infinite, first } = self;
        match (nan, infinite) {
            (nan, 0) => write!(f, "{nan} NaN")?,
            (0, infinite) => write!(f, "{infinite} infinite")?,
            (nan, infinite) => write!(f, "{nan} NaN and {infinite} infinite")?,
        }
        write!(f, ", the first at element {first}")
    }
}

vectorized! {
    /// Whether all numbers are finite.
    pub fn all_finite<T: Float>(values: &[T]) -> bool {
        // A product with zero is zero, or NaN.
        sum_of(values, |value| value * T::ZERO) == T::ZERO
    }
}

impl NotFinite {
    /// Looks through consecutive parts; `None` where all numbers are finite.
    pub fn find<T: Float>(parts: impl IntoIterator<Item = impl AsRef<[T]>>) -> Option<Self> {
        let mut found = Self::default();
        let mut before = 0;
        for part in parts {
            found.add(part.as_ref(), before);
            before += part.as_ref().len() as u64;
        }
        found.any().then_some(found)
    }

    /// Counts those of a part behind `before` numbers that were looked at.
    pub fn add<T: Float>(&mut self, part: &[T], before: u64) {
        if all_finite(part) {
            return;
        }
        for (at, value) in part.iter().enumerate().filter(|(_, value)| !value.is_finite()) {
            if !self.any() {
                self.first = before + at as u64;
            }
            if value.to_f64().is_nan() { self.nan += 1 } else { self.infinite += 1 }
        }
    }

    /// Whether there are any.
    pub fn any(&self) -> bool {
        self.nan + self.infinite > 0
    }
}

impl<T: Float> Weight<T> {
    /// The elements that are not finite, as what they stand for when they are in low precision; `None` where there are none.
    pub fn not_finite(&self) -> Option<NotFinite> {
        if self.device() != Device::Cpu {
            return self.to_device(Device::Cpu).not_finite();
        }
        NotFinite::find(self.view().chunks(PART))
    }
}

impl<T: Float> Parameters<T> {
    /// Names of the parameters with elements that are not finite, in their order.
    pub fn not_finite(&self) -> Vec<(String, NotFinite)> {
        let parameters: Vec<_> = self.iter().collect();
        let all: Vec<_> = match self.device() {
            Device::Cpu => parameters.par_iter().map(|parameter| parameter.tensor.not_finite()).collect(),
            // One at a time: each is copied to the host.
            Device::Gpu(_) => parameters.iter().map(|parameter| parameter.tensor.not_finite()).collect(),
        };
        let named = parameters.iter().zip(all);
        named.filter_map(|(parameter, found)| Some((parameter.name.clone(), found?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::{Init, ParameterSpecs, QuantizedFormat, QuantizedMatrix, Tensor};

    #[test]
    fn one_bad_number_is_found_wherever_it_stands() {
        for length in [1, 15, 16, 17, 40] {
            let mut values = vec![f32::MAX; length];
            values[0] = -f32::MAX;
            assert!(all_finite(&values), "{length}");
            for at in 0..length {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut values = values.clone();
                    values[at] = bad;
                    assert!(!all_finite(&values), "{bad} at {at} of {length}");
                    let found = NotFinite::find(values.chunks(7)).unwrap_or_default();
                    assert_eq!((found.first, found.nan), (at as u64, u64::from(bad.is_nan())));
                    assert_eq!(found.nan + found.infinite, 1);
                }
            }
        }
        assert!(all_finite::<f64>(&[]));
        let (nan, infinite, first) = (1, 2, 3);
        assert_eq!(
            NotFinite { nan, infinite, first }.to_string(),
            "1 NaN and 2 infinite, the first at element 3"
        );
    }

    #[test]
    fn parameters_are_named_however_they_are_stored() {
        let mut specs = ParameterSpecs::default();
        for name in ["good", "full", "f16", "bf16", "q8_0", "q4_k"] {
            specs.add_matrix(name, [2, 256], Init::Ones);
        }
        let shape = [2, 256];
        let values = vec![1.0f32; 512];
        let blocks = |format: QuantizedFormat| {
            let good = QuantizedMatrix::from_values(format, &values, shape, Device::Cpu);
            let mut bytes = good.unwrap_or_else(|_| unreachable!("ones fit")).bytes().to_vec();
            // The scale of the first block of the second row.
            let at = format.row_bytes(256);
            bytes[at..at + 2].copy_from_slice(&f16::NAN.to_le_bytes());
            let bytes = Tensor::from_vec(bytes, &[2, at], Device::Cpu);
            Weight::Quantized(QuantizedMatrix::new(format, bytes, shape))
        };
        let parameters = Parameters::<f32>::build(&specs, Device::Cpu, |spec| {
            let with = |at: usize, bad: f32| {
                let mut values = values.clone();
                values[at] = bad;
                values
            };
            let tensor: Weight = match spec.name.as_str() {
                "full" => Weight::Full(Tensor::from_vec(with(511, f32::NAN), &shape, Device::Cpu)),
                "f16" => {
                    let halves = with(1, f32::INFINITY).into_iter().map(f16::from_f32).collect();
                    Weight::F16(Tensor::from_vec(halves, &shape, Device::Cpu))
                }
                "bf16" => {
                    let halves = with(2, f32::NAN).into_iter().map(bf16::from_f32).collect();
                    Weight::Bf16(Tensor::from_vec(halves, &shape, Device::Cpu))
                }
                "q8_0" => blocks(QuantizedFormat::Q8_0),
                "q4_k" => blocks(QuantizedFormat::Q4K),
                _ => Weight::Full(Tensor::from_vec(values.clone(), &shape, Device::Cpu)),
            };
            Ok::<_, std::convert::Infallible>(tensor)
        })
        .unwrap_or_else(|never| match never {});
        let bad = |nan, infinite, first| NotFinite { nan, infinite, first };
        let expected = [
            ("full", bad(1, 0, 511)),
            ("f16", bad(0, 1, 1)),
            ("bf16", bad(1, 0, 2)),
            ("q8_0", bad(32, 0, 256)),
            ("q4_k", bad(256, 0, 256)),
        ];
        assert_eq!(parameters.not_finite(), expected.map(|(name, found)| (name.to_owned(), found)));
    }
}
