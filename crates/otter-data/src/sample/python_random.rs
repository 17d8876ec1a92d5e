//! CPython's generator (MT19937) and the draws the original makes with it.
//!
//! The original seeds Python's `random` and calls `choices`, `sample` and `choice`; equal sample
//! lists need equal draws. The same generator also drives our own shuffling, because its stream
//! is fixed for ever and does not change with a library version.

const N: usize = 624;
const M: usize = 397;

/// Python's `random.Random`.
#[derive(Clone)]
pub struct PythonRandom {
    state: [u32; N],
    next: usize,
}

impl PythonRandom {
    /// `random.seed(seed)` for a non-negative integer.
    pub fn new(seed: u64) -> Self {
        let low = seed as u32;
        let high = (seed >> 32) as u32;
        if high == 0 { Self::from_key(&[low]) } else { Self::from_key(&[low, high]) }
    }

    /// Seeds from several words (`init_by_array`).
    pub fn from_key(key: &[u32]) -> Self {
        let mut state = [0_u32; N];
        state[0] = 19_650_218;
        for i in 1..N {
            let previous = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(previous ^ (previous >> 30)).wrapping_add(i as u32);
        }
        let mut i = 1;
        let mut j = 0;
        for _ in 0..N.max(key.len()) {
            let previous = state[i - 1];
            state[i] = (state[i] ^ (previous ^ (previous >> 30)).wrapping_mul(1_664_525))
                .wrapping_add(key[j])
                .wrapping_add(j as u32);
            i += 1;
            j += 1;
            if i >= N {
                state[0] = state[N - 1];
                i = 1;
            }
            if j >= key.len() {
                j = 0;
            }
        }
        for _ in 0..N - 1 {
            let previous = state[i - 1];
            state[i] =
                (state[i] ^ (previous ^ (previous >> 30)).wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            i += 1;
            if i >= N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        state[0] = 0x8000_0000;
        Self { state, next: N }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn refill(&mut self) {
        for k in 0..N {
            let y = (self.state[k] & 0x8000_0000) | (self.state[(k + 1) % N] & 0x7fff_ffff);
            let twist = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[k] = self.state[(k + M) % N] ^ (y >> 1) ^ twist;
        }
        self.next = 0;
    }

    /// `random.random()`: uniform in [0, 1) with 53 bits.
    pub fn random(&mut self) -> f64 {
        let a = f64::from(self.next_u32() >> 5);
        let b = f64::from(self.next_u32() >> 6);
        (a * 67_108_864.0 + b) / 9_007_199_254_740_992.0
    }

    /// `_randbelow(n)`: uniform in 0..n. `n` must be positive.
    pub fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let value = self.bits(bits);
            if value < n as u64 {
                return value as usize;
            }
        }
    }

    /// `getrandbits(k)` for k up to 64: words are drawn low part first.
    fn bits(&mut self, k: u32) -> u64 {
        if k <= 32 {
            return u64::from(self.next_u32() >> (32 - k.max(1)));
        }
        let low = u64::from(self.next_u32());
        let high = u64::from(self.next_u32() >> (64 - k));
        low | (high << 32)
    }

    /// `choices(range(n), k=count)`: with replacement.
    pub fn choices(&mut self, n: usize, count: usize) -> Vec<usize> {
        (0..count).map(|_| (self.random() * n as f64) as usize).collect()
    }

    /// `sample(range(n), count)`: without replacement; `count` must not exceed `n`.
    pub fn sample(&mut self, n: usize, count: usize) -> Vec<usize> {
        // CPython picks the algorithm by an estimate of memory; the draws differ, so we follow it.
        let mut set_size = 21_usize;
        if count > 5 {
            set_size += 4_usize.pow(((count * 3) as f64).log(4.0).ceil() as u32);
        }
        let mut result = Vec::with_capacity(count);
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            for i in 0..count {
                let j = self.below(n - i);
                result.push(pool[j]);
                pool[j] = pool[n - i - 1];
            }
        } else {
            let mut selected = std::collections::HashSet::with_capacity(count);
            for _ in 0..count {
                let mut j = self.below(n);
                while !selected.insert(j) {
                    j = self.below(n);
                }
                result.push(j);
            }
        }
        result
    }

    /// `shuffle`: a uniform permutation in place.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}

/// Positions kept when a list of `n` ids is brought to `num_samples` entries: 0 and -1 mean all,
/// more than `n` repeats the list and draws the remainder, fewer draws without replacement.
pub fn resample_positions(n: usize, num_samples: i64) -> Vec<usize> {
    let all = || (0..n).collect::<Vec<_>>();
    let Ok(wanted) = usize::try_from(num_samples) else { return all() };
    if wanted == 0 || wanted == n || n == 0 {
        return all();
    }
    let mut random = PythonRandom::new(0);
    if wanted < n {
        return random.sample(n, wanted);
    }
    let mut positions = Vec::with_capacity(wanted);
    for _ in 0..wanted / n {
        positions.extend(0..n);
    }
    positions.extend(random.choices(n, wanted % n));
    positions
}

/// Frame positions that bring `n` frames to `wanted`: the floor of `linspace(0, n - 1, wanted)`.
pub fn resample_frames(n: usize, wanted: usize) -> Vec<usize> {
    if n == 0 {
        return Vec::new();
    }
    if wanted < 2 {
        return vec![0; wanted];
    }
    // NumPy multiplies the index with the step and sets the last point exactly.
    let step = (n - 1) as f64 / (wanted - 1) as f64;
    (0..wanted)
        .map(|i| if i == wanted - 1 { n - 1 } else { ((i as f64 * step) as usize).min(n - 1) })
        .collect()
}

/// The seed the original gives to every item of an epoch: `int(hash((seed, epoch)) % 1e6)`.
pub fn reference_item_seed(seed: i64, epoch: i64) -> u64 {
    const PRIME_1: u64 = 11_400_714_785_074_694_791;
    const PRIME_2: u64 = 14_029_467_366_897_019_727;
    const PRIME_5: u64 = 2_870_177_450_012_600_261;
    let mut hash = PRIME_5;
    for item in [seed, epoch] {
        // hash(-1) is -2 in CPython; other small integers are their own hash.
        let lane = if item == -1 { -2_i64 as u64 } else { item as u64 };
        hash = hash.wrapping_add(lane.wrapping_mul(PRIME_2)).rotate_left(31).wrapping_mul(PRIME_1);
    }
    hash = hash.wrapping_add(2 ^ (PRIME_5 ^ 3_527_539));
    if hash == u64::MAX {
        hash = 1_546_275_796;
    }
    (hash as i64 as f64).rem_euclid(1e6) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_equal_cpython() {
        assert_eq!(PythonRandom::new(0).choices(10, 5), [8, 7, 4, 2, 5]);
        assert_eq!(PythonRandom::new(0).sample(10, 4), [6, 9, 0, 2]);
        assert_eq!(PythonRandom::new(0).sample(1000, 4), [864, 394, 776, 911]);
    }

    #[test]
    fn item_seeds_equal_the_original() {
        let seeds: Vec<u64> = (0..4).map(|epoch| reference_item_seed(42, epoch)).collect();
        assert_eq!(seeds, [197_952, 644_928, 499_968, 578_816]);
    }

    #[test]
    fn resampling_of_an_empty_list_stays_empty() {
        assert!(resample_positions(0, 7).is_empty());
        assert!(resample_frames(0, 4).is_empty());
        assert_eq!(resample_frames(5, 1), [0]);
    }
}
