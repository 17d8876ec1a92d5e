//! AdamW against the formulas of the host's optimizer, written out in its order of operations.

use crate::common::{gpu, numbers, on};
use otter_cuda::Buffer;
use otter_cuda::adamw::{self, BLOCK, EightBitMoments, Settings};

const SETTINGS: Settings = Settings {
    learning_rate: 1e-2,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    decay: 0.1,
    step: 1,
    factor: 1.0,
};

/// Decay on and off, clipping on and off.
fn variants() -> impl Iterator<Item = Settings> {
    [(0.1, 1.0), (0.0, 1.0), (0.1, 0.37), (0.0, 0.37)].into_iter().map(|(decay, factor)| Settings {
        decay,
        factor,
        ..SETTINGS
    })
}

/// Constants in f32, as the host's optimizer makes them.
struct Constants {
    factor: f32,
    keep: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    step_size: f32,
    root_correction2: f32,
    epsilon: f32,
}

impl Constants {
    fn of(s: &Settings) -> Self {
        let exponent = s.step as f64;
        Self {
            factor: s.factor as f32,
            keep: (1.0 - s.learning_rate * s.decay) as f32,
            beta2: s.beta2 as f32,
            one_minus_beta1: (1.0 - s.beta1) as f32,
            one_minus_beta2: (1.0 - s.beta2) as f32,
            step_size: (s.learning_rate / (1.0 - s.beta1.powf(exponent))) as f32,
            root_correction2: (1.0 - s.beta2.powf(exponent)).sqrt() as f32,
            epsilon: s.epsilon as f32,
        }
    }

    fn update(&self, value: &mut f32, gradient: f32, first: &mut f32, second: &mut f32) {
        *value *= self.keep;
        *first += (gradient - *first) * self.one_minus_beta1;
        *second = *second * self.beta2 + self.one_minus_beta2 * gradient * gradient;
        let denominator = second.sqrt() / self.root_correction2 + self.epsilon;
        *value -= self.step_size * (*first / denominator);
    }
}

/// Ordinary gradients, tiny and huge ones, and stretches of zeros.
fn gradients(len: usize, step: u64) -> Vec<f32> {
    let mut gradients = numbers(len, 100 + step);
    for (at, gradient) in gradients.iter_mut().enumerate() {
        *gradient *= match at % 7 {
            0 => 1e-20,
            1 => 1e-42,
            2 => 1e5,
            3 if step == 2 => 0.0,
            _ => 1.0,
        };
        if (300..700).contains(&at) {
            *gradient = 0.0;
        }
    }
    gradients
}

fn assert_same(found: &Buffer<f32>, expected: &[f32], what: &str) {
    let found = found.download().expect("a download");
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(found.to_bits() == expected.to_bits(), "{what}, element {at}: {found}, expected {expected}");
    }
}

#[test]
fn updates_give_the_hosts_bits() {
    let gpu = gpu();
    for settings in variants() {
        for len in [1, 3, 4, 31, 257, 3001] {
            let mut values = numbers(len, 1);
            let (mut first, mut second) = (vec![0.0; len], vec![0.0; len]);
            let mut on_gpu = on(&gpu, &values);
            let mut moments = [gpu.zeros(len).expect("memory"), gpu.zeros(len).expect("memory")];
            for step in 1..=5 {
                let settings = Settings { step, learning_rate: 1e-2 / step as f64, ..settings };
                let (gradients, c) = (gradients(len, step), Constants::of(&settings));
                let [on_first, on_second] = &mut moments;
                adamw::update(&mut on_gpu, &on(&gpu, &gradients), on_first, on_second, &settings)
                    .expect("a launch");
                for (at, gradient) in gradients.iter().enumerate() {
                    c.update(&mut values[at], gradient * c.factor, &mut first[at], &mut second[at]);
                }
                let what = format!("{settings:?}, {len} elements");
                assert_same(&on_gpu, &values, &what);
                assert_same(on_first, &first, &what);
                assert_same(on_second, &second, &what);
            }
        }
    }
}

/// Two steps worked out in f64.
#[test]
fn steps_follow_the_formulas() {
    let gpu = gpu();
    let gradients = [0.5, -2.0, 1e-3, 0.0];
    let mut values = on(&gpu, &[1.0; 4]);
    let (mut first, mut second) = (gpu.zeros(4).expect("memory"), gpu.zeros(4).expect("memory"));
    let (mut expected, mut m, mut v) = ([1f64; 4], [0f64; 4], [0f64; 4]);
    for (step, factor) in [(1, 1.0), (2, 0.5)] {
        let settings = Settings { step, factor, ..SETTINGS };
        let on_gradients = on(&gpu, &gradients.map(|g| g as f32));
        adamw::update(&mut values, &on_gradients, &mut first, &mut second, &settings).expect("a launch");
        for (i, g) in gradients.into_iter().enumerate() {
            let g = g * factor;
            m[i] = 0.9 * m[i] + 0.1 * g;
            v[i] = 0.999 * v[i] + 0.001 * g * g;
            let (m_hat, v_hat) =
                (m[i] / (1.0 - f64::powi(0.9, step as i32)), v[i] / (1.0 - f64::powi(0.999, step as i32)));
            expected[i] = expected[i] * (1.0 - 1e-2 * 0.1) - 1e-2 * m_hat / (v_hat.sqrt() + 1e-8);
        }
    }
    for (found, expected) in values.download().expect("a download").into_iter().zip(expected) {
        assert!((f64::from(found) - expected).abs() < 2e-7, "{found}, expected {expected}");
    }
}

/// Moments of 8 bits as the host keeps them.
struct Reference {
    first: Vec<u8>,
    second: Vec<u8>,
    first_scales: Vec<f32>,
    second_scales: Vec<f32>,
}

const FIRST_OFFSET: f32 = 1.0 / 32768.0;
const FIRST_BASE: u32 = (127 - 15) << 3;
const SECOND_BASE: u32 = (127 - 31) << 3;

fn mixed(position: u32, key: u32) -> u32 {
    let mut bits = position.wrapping_mul(0x9e37_79b1) ^ key;
    bits = (bits ^ bits >> 16).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ bits >> 13).wrapping_mul(0xc2b2_ae35);
    bits ^ bits >> 16
}

fn decode_first(code: u8) -> f32 {
    let magnitude = f32::from_bits((u32::from(code & 0x7f) + FIRST_BASE) << 20) - FIRST_OFFSET;
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

fn decode_second(code: u8) -> f32 {
    if code == 0 { 0.0 } else { f32::from_bits((u32::from(code) + SECOND_BASE) << 20) }
}

fn encode_first(value: f32, random: u32) -> u8 {
    let bits = (value.abs() + FIRST_OFFSET).to_bits() + (random >> 12);
    (((bits >> 20) - FIRST_BASE).min(0x7f) | (value.to_bits() >> 24 & 0x80)) as u8
}

fn encode_second(value: f32, random: u32) -> u8 {
    let bits = value.max(1.125 / 2_147_483_648.0).to_bits() + (random >> 12);
    if value == 0.0 { 0 } else { ((bits >> 20) - SECOND_BASE).min(0xff) as u8 }
}

fn scale_of(largest: f32, full: f32) -> f32 {
    if largest == 0.0 { 0.0 } else { (largest / full).max(2f32.powi(-124)) }
}

impl Reference {
    fn update(&mut self, values: &mut [f32], gradients: &[f32], position: u64, settings: &Settings) {
        let (c, step) = (Constants::of(settings), settings.step);
        let key = mixed(step as u32, mixed((step >> 32) as u32, 0x5bd1_e995));
        for block in 0..self.first_scales.len() {
            let range = block * BLOCK..((block + 1) * BLOCK).min(values.len());
            let (scale1, scale2) = (&mut self.first_scales[block], &mut self.second_scales[block]);
            let (mut m, mut v) = (Vec::new(), Vec::new());
            for i in range.clone() {
                let gradient = (gradients[i] * c.factor).clamp(-2f32.powi(63), 2f32.powi(63));
                let mut first = decode_first(self.first[i]) * *scale1;
                let mut second = decode_second(self.second[i]) * *scale2;
                c.update(&mut values[i], gradient, &mut first, &mut second);
                m.push(first);
                v.push(second);
            }
            let largest = |x: &[f32]| x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            *scale1 = scale_of(largest(&m), 1.875 - FIRST_OFFSET);
            *scale2 = scale_of(largest(&v), 1.875);
            let inverse = |scale: f32| if scale == 0.0 { 0.0 } else { 1.0 / scale };
            let (inverse1, inverse2) = (inverse(*scale1), inverse(*scale2));
            for (at, i) in range.enumerate() {
                let random = mixed((position as u32).wrapping_add(i as u32), key);
                self.first[i] = encode_first(m[at] * inverse1, random << 16);
                self.second[i] = encode_second(v[at] * inverse2, random & 0xffff_0000);
            }
        }
    }
}

#[test]
fn updates_of_8_bit_moments_give_the_hosts_bits() {
    let gpu = gpu();
    for settings in variants() {
        for (len, position) in
            [(1usize, 0), (31, 7), (256, 1 << 33), (257, 512), (3001, u64::from(u32::MAX) - 100)]
        {
            let blocks = len.div_ceil(BLOCK);
            let (codes, scales) = (vec![0; len], vec![0.0; blocks]);
            let mut reference = Reference {
                first: codes.clone(),
                second: codes,
                first_scales: scales.clone(),
                second_scales: scales,
            };
            let mut values = numbers(len, 1);
            let mut on_gpu = on(&gpu, &values);
            let (mut codes, mut scales) = (
                [(), ()].map(|()| gpu.zeros::<u8>(len).expect("memory")),
                [(), ()].map(|()| gpu.zeros::<f32>(len.div_ceil(BLOCK)).expect("memory")),
            );
            for step in [1, 2, 3, 4, 5, 1 << 40] {
                let settings = Settings { step, ..settings };
                let mut gradients = gradients(len, step);
                if step == 4 {
                    // So large that its square overflows.
                    gradients[0] = -3e38;
                }
                let on_gradients = on(&gpu, &gradients);
                let [first, second] = &mut codes;
                let [first_scales, second_scales] = &mut scales;
                let moments = EightBitMoments { first, second, first_scales, second_scales };
                adamw::update_eight_bit(&mut on_gpu, &on_gradients, moments, position, &settings)
                    .expect("a launch");
                reference.update(&mut values, &gradients, position, &settings);
                let what = format!("{settings:?}, {len} elements");
                assert_same(&on_gpu, &values, &what);
                assert_same(&scales[0], &reference.first_scales, &what);
                assert_same(&scales[1], &reference.second_scales, &what);
                assert_eq!(codes[0].download().expect("a download"), reference.first, "{what}");
                assert_eq!(codes[1].download().expect("a download"), reference.second, "{what}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "steps count from 1")]
fn step_0_is_refused() {
    let gpu = gpu();
    let mut buffers = [1, 2, 3].map(|seed| on(&gpu, &numbers(4, seed)));
    let [values, first, second] = &mut buffers;
    let settings = Settings { step: 0, ..SETTINGS };
    let _ = adamw::update(values, &on(&gpu, &numbers(4, 4)), first, second, &settings);
}
