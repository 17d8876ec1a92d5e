//! The pairs, in blocks that are independent of each other.

use otter_data::Record;
use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::language::{Language, Vocabulary};
use super::random::stream;

/// Pairs of a block; scenes do not cross blocks.
pub(super) const BLOCK: u64 = 4096;

/// Of 1000 instructions, how many come from the pool of popular ones.
const POPULAR_OF_1000: u32 = 216;

/// Pairs for each popular instruction.
const PAIRS_A_POPULAR: u64 = 500;

/// Lengths in words at equal steps of probability (log-normal: median 11, sigma 0.42).
const INSTRUCTION_WORDS: [u32; 17] = [4, 6, 7, 8, 8, 9, 10, 10, 11, 12, 13, 13, 15, 16, 18, 21, 40];

/// As above (median 28, sigma 0.85).
const ANSWER_WORDS: [u32; 17] = [1, 8, 11, 13, 16, 18, 21, 25, 28, 32, 37, 42, 50, 59, 75, 103, 300];

/// One pair with its context.
pub(super) struct Pair {
    pub(super) id: String,
    pub(super) record: Record,
    /// `None` if the pair is no sample.
    pub(super) context: Option<Vec<String>>,
}

/// What all blocks share.
pub(super) struct PairMaker {
    pub(super) name: String,
    pub(super) seed: u64,
    pub(super) pairs: u64,
    pub(super) images: u64,
    vocabulary: Vocabulary,
}

impl PairMaker {
    pub(super) fn new(name: &str, seed: u64, pairs: u64, images: u64) -> Self {
        Self { name: name.to_owned(), seed, pairs, images, vocabulary: Vocabulary::new() }
    }

    fn instruction_id(&self, pair: u64) -> String {
        format!("{}_INS_{:08}", self.name, pair + 1)
    }

    /// Id of an image.
    pub(super) fn image_id(&self, image: u64) -> String {
        format!("{}_IMG_{:08}", self.name, image + 1)
    }

    /// The pairs of a block.
    pub(super) fn block(&self, block: u64) -> Vec<Pair> {
        let mut random = stream(self.seed, "pairs", block);
        let end = ((block + 1) * BLOCK).min(self.pairs);
        let mut start = block * BLOCK;
        let mut pairs = Vec::with_capacity((end - start) as usize);
        while start < end {
            let scene_end = (start + random.random_range(4..=12)).min(end);
            self.scene(start, scene_end, &mut random, &mut pairs);
            start = scene_end;
        }
        pairs
    }

    fn scene(&self, start: u64, end: u64, random: &mut ChaCha8Rng, pairs: &mut Vec<Pair>) {
        let language = Language::draw(random);
        let topic = self.vocabulary.topic(random);
        let image_ids = self.scene_images(start, random);
        let ids: Vec<String> = (start..end).map(|pair| self.instruction_id(pair)).collect();
        for (place, id) in ids.iter().enumerate() {
            let instruction = if random.random_ratio(POPULAR_OF_1000, 1000) {
                self.popular(language, random)
            } else {
                let length = draw(&INSTRUCTION_WORDS, random);
                self.vocabulary.text(language, &topic, length, true, random)
            };
            let length = draw(&ANSWER_WORDS, random);
            let answer = self.vocabulary.text(language, &topic, length, false, random);
            let others =
                || ids.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, id)| id.clone());
            let context = random.random_ratio(4, 5).then(|| {
                let count = random.random_range(0..=5);
                others().take(count).collect()
            });
            pairs.push(Pair {
                id: id.clone(),
                record: Record {
                    instruction,
                    answer,
                    image_ids: image_ids.clone(),
                    rel_ins_ids: others().collect(),
                    ..Record::default()
                },
                context,
            });
        }
    }

    /// One of the popular instructions of a language; low numbers are the most frequent.
    fn popular(&self, language: Language, random: &mut ChaCha8Rng) -> String {
        let count = (self.pairs / PAIRS_A_POPULAR / Language::ALL.len() as u64).max(1);
        // A draw below a draw: number n with a probability about proportional to log(count / n).
        let limit = random.random_range(1..=count);
        let number = random.random_range(0..limit);
        let mut own = stream(self.seed, "popular", number * Language::ALL.len() as u64 + language as u64);
        let topic = self.vocabulary.topic(&mut own);
        let length = draw(&INSTRUCTION_WORDS, &mut own);
        self.vocabulary.text(language, &topic, length, true, &mut own)
    }

    /// Consecutive images, from a place that grows with the pair: all are used, neighbors share.
    fn scene_images(&self, pair: u64, random: &mut ChaCha8Rng) -> Vec<String> {
        if self.images == 0 {
            return Vec::new();
        }
        let count = match random.random_range(0..100) {
            0..70 => 1,
            70..85 => 2,
            _ => random.random_range(4..=16),
        };
        let first = (u128::from(pair) * u128::from(self.images) / u128::from(self.pairs)) as u64;
        (0..count.min(self.images)).map(|place| self.image_id((first + place) % self.images)).collect()
    }
}

/// A length between the quantiles of a table.
fn draw(quantiles: &[u32; 17], random: &mut ChaCha8Rng) -> usize {
    let place = random.random_range(0..16_usize);
    random.random_range(quantiles[place]..=quantiles[place + 1]) as usize
}
