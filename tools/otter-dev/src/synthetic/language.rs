//! Made-up words in the scripts of the eight languages of MIMIC-IT.

use rand::RngExt;
use rand::rngs::ChaCha8Rng;

use super::random::stream;

/// The languages of MIMIC-IT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// English.
    English,
    /// Chinese.
    Chinese,
    /// Spanish.
    Spanish,
    /// Japanese.
    Japanese,
    /// German.
    German,
    /// French.
    French,
    /// Korean.
    Korean,
    /// Arabic.
    Arabic,
}

/// Words of a language.
const WORDS: usize = 6000;

/// Words at the beginning of the list that every text uses often.
const COMMON: usize = 100;

impl Language {
    /// All languages.
    pub const ALL: [Self; 8] = [
        Self::English,
        Self::Chinese,
        Self::Spanish,
        Self::Japanese,
        Self::German,
        Self::French,
        Self::Korean,
        Self::Arabic,
    ];

    /// English for 58 of 100, each other language for 6.
    pub(super) fn draw(random: &mut ChaCha8Rng) -> Self {
        match random.random_range(0..100_usize) {
            0..58 => Self::English,
            number => Self::ALL[1 + (number - 58) / 6],
        }
    }

    /// What stands between words: nothing in Chinese and Japanese.
    pub(super) fn separator(self) -> &'static str {
        match self {
            Self::Chinese | Self::Japanese => "",
            _ => " ",
        }
    }

    /// End of a question and of a statement.
    pub(super) fn stops(self) -> [&'static str; 2] {
        match self {
            Self::Chinese | Self::Japanese => ["？", "。"],
            Self::Arabic => ["؟", "."],
            _ => ["?", "."],
        }
    }

    /// Consonants and vowels that alternate, or characters that each stand for a syllable.
    fn letters(self) -> (&'static [&'static str], &'static [&'static str]) {
        const LATIN: &[&str] = &[
            "b", "c", "d", "f", "g", "h", "l", "m", "n", "p", "r", "s", "t", "v", "st", "tr", "ch", "pl",
            "gr", "w",
        ];
        match self {
            Self::English => (LATIN, &["a", "e", "i", "o", "u", "ea", "oo", "y"]),
            Self::Spanish => (LATIN, &["a", "e", "i", "o", "u", "á", "ó", "ía"]),
            Self::German => (LATIN, &["a", "e", "i", "o", "u", "ä", "ö", "ü", "ei", "au"]),
            Self::French => (LATIN, &["a", "e", "i", "o", "u", "é", "è", "ou", "ai", "eau"]),
            Self::Arabic => (
                &["ب", "ت", "ج", "د", "ر", "س", "ع", "ف", "ق", "ك", "ل", "م", "ن", "ه"],
                &["ا", "ي", "و", ""],
            ),
            Self::Chinese | Self::Japanese | Self::Korean => (&[], &[]),
        }
    }

    /// First character and number of characters of the script, where a character is a syllable.
    fn syllables(self) -> (u32, u32) {
        match self {
            Self::Chinese => (0x4e00, 3000),
            Self::Japanese => (0x3042, 80),
            _ => (0xac00, 11172),
        }
    }

    fn word(self, random: &mut ChaCha8Rng) -> String {
        let (consonants, vowels) = self.letters();
        let mut word = String::new();
        if consonants.is_empty() {
            let (first, count) = self.syllables();
            for _ in 0..random.random_range(1..=3) {
                word.extend(char::from_u32(first + random.random_range(0..count)));
            }
            return word;
        }
        for _ in 0..random.random_range(1..=3) {
            word.push_str(consonants[random.random_range(0..consonants.len())]);
            word.push_str(vowels[random.random_range(0..vowels.len())]);
        }
        if random.random_bool(0.5) {
            word.push_str(consonants[random.random_range(0..consonants.len())]);
        }
        word
    }
}

/// The words of all languages.
pub(super) struct Vocabulary {
    words: Vec<Vec<String>>,
}

/// Words that a text is about.
pub(super) const TOPIC_WORDS: usize = 12;

impl Vocabulary {
    /// The same words for every seed.
    pub(super) fn new() -> Self {
        let words = Language::ALL.iter().enumerate().map(|(number, language)| {
            let mut random = stream(0, "words", number as u64);
            (0..WORDS).map(|_| language.word(&mut random)).collect()
        });
        Self { words: words.collect() }
    }

    /// Numbers of the words of a topic.
    pub(super) fn topic(&self, random: &mut ChaCha8Rng) -> [usize; TOPIC_WORDS] {
        std::array::from_fn(|_| random.random_range(COMMON..WORDS))
    }

    /// A text of `length` words: half of them common, a third of the topic, the rest anything.
    pub(super) fn text(
        &self,
        language: Language,
        topic: &[usize; TOPIC_WORDS],
        length: usize,
        is_question: bool,
        random: &mut ChaCha8Rng,
    ) -> String {
        let words = &self.words[language as usize];
        let mut text = String::with_capacity(length * 7);
        let mut sentence = 0;
        for place in 0..length {
            let number = match random.random_range(0..6) {
                // The smaller of two draws: the first words are the most frequent.
                0..3 => random.random_range(0..COMMON).min(random.random_range(0..COMMON)),
                3 | 4 => topic[random.random_range(0..TOPIC_WORDS)],
                _ => random.random_range(0..WORDS),
            };
            if sentence == 0 {
                let mut characters = words[number].chars();
                text.extend(characters.next().into_iter().flat_map(char::to_uppercase));
                text.push_str(characters.as_str());
            } else {
                text.push_str(&words[number]);
            }
            sentence += 1;
            let is_last = place + 1 == length;
            let [question, statement] = language.stops();
            if is_last {
                text.push_str(if is_question { question } else { statement });
            } else if !is_question && sentence > 6 && random.random_bool(0.15) {
                text.push_str(statement);
                text.push(' ');
                sentence = 0;
            } else {
                text.push_str(language.separator());
            }
        }
        text
    }
}
