//! Changes to the scores before a token is chosen, in the reference's order: repetition penalty,
//! no-repeat n-gram, bad words, minimum length, minimum number of new tokens. Scores are logits, or with beams
//! log-probabilities, which are not normalized again afterwards.

/// Which changes are made; the default changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Processors {
    /// Divides positive and multiplies negative scores of tokens already in the sequence; 1 is off.
    pub repetition_penalty: f32,
    /// Bans tokens that would complete an n-gram already in the sequence, prompt included; 0 is off.
    pub no_repeat_ngram_size: usize,
    /// Phrases, each as its tokens, that are never completed. One that is nothing but a stop token is passed over.
    pub bad_words: Vec<Vec<u32>>,
    /// No stop token before the sequence, prompt included, is this long.
    pub min_length: usize,
    /// No stop token before this many new tokens.
    pub min_new_tokens: usize,
}

impl Default for Processors {
    fn default() -> Self {
        Self {
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            bad_words: Vec::new(),
            min_length: 0,
            min_new_tokens: 0,
        }
    }
}

impl Processors {
    /// Whether all are off.
    pub(super) fn change_nothing(&self) -> bool {
        self.bad_words.is_empty() && *self == Self::default()
    }

    /// Changes the scores of the token that follows `ids`, `generated` of which are new.
    pub fn apply(&self, scores: &mut [f32], ids: &[u32], generated: usize, stop_tokens: &[u32]) {
        if self.repetition_penalty != 1.0 {
            self.penalize_repetition(scores, ids);
        }
        if self.no_repeat_ngram_size > 0 {
            ban(scores, repeating_tokens(ids, self.no_repeat_ngram_size));
        }
        ban(scores, self.bad_word_ends(ids, stop_tokens));
        if ids.len() < self.min_length || generated < self.min_new_tokens {
            ban(scores, stop_tokens.iter().copied());
        }
    }

    /// Last tokens of the phrases whose other tokens `ids` ends with.
    fn bad_word_ends(&self, ids: &[u32], stop_tokens: &[u32]) -> impl Iterator<Item = u32> {
        self.bad_words.iter().filter_map(move |word| {
            let (&last, start) = word.split_last()?;
            let is_stop = start.is_empty() && stop_tokens.contains(&last);
            // The reference wants the context to be as long as the whole phrase.
            let fits = start.is_empty() || word.len() <= ids.len();
            (!is_stop && fits && ids.ends_with(start)).then_some(last)
        })
    }

    fn penalize_repetition(&self, scores: &mut [f32], ids: &[u32]) {
        let mut seen = ids.to_vec();
        seen.sort_unstable();
        seen.dedup();
        for id in seen {
            if let Some(score) = scores.get_mut(id as usize) {
                *score = if *score < 0.0 {
                    *score * self.repetition_penalty
                } else {
                    *score / self.repetition_penalty
                };
            }
        }
    }
}

fn ban(scores: &mut [f32], tokens: impl IntoIterator<Item = u32>) {
    for token in tokens {
        if let Some(score) = scores.get_mut(token as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Tokens that would complete an n-gram that `ids` holds already.
fn repeating_tokens(ids: &[u32], n: usize) -> Vec<u32> {
    if ids.len() + 1 < n {
        return Vec::new();
    }
    let suffix = &ids[ids.len() + 1 - n..];
    ids.windows(n).filter(|gram| gram[..n - 1] == *suffix).map(|gram| gram[n - 1]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_penalty_acts_once_per_distinct_token_by_sign() {
        let processors = Processors { repetition_penalty: 2.0, ..Processors::default() };
        let mut scores = [4.0, -4.0, 1.0];
        processors.apply(&mut scores, &[0, 1, 0], 0, &[9]);
        assert_eq!(scores, [2.0, -8.0, 1.0]);
    }

    #[test]
    fn ngrams_of_the_prompt_are_banned() {
        assert_eq!(repeating_tokens(&[1, 2, 3, 1, 2], 3), [3]);
        assert_eq!(repeating_tokens(&[1, 2, 3, 1, 2], 1), [1, 2, 3, 1, 2]);
        assert!(repeating_tokens(&[1], 3).is_empty());
        assert!(repeating_tokens(&[], 2).is_empty());
    }

    #[test]
    fn bad_words_are_banned_at_their_last_token() {
        let bad_words = vec![vec![1], vec![2, 3], vec![4, 5, 6], vec![7], vec![], vec![99]];
        let processors = Processors { bad_words, ..Processors::default() };
        let banned = |ids: &[u32]| {
            let mut scores = [0.0; 8];
            processors.apply(&mut scores, ids, 0, &[7]);
            (0..8).filter(|&id| scores[id] == f32::NEG_INFINITY).collect::<Vec<_>>()
        };
        assert_eq!(banned(&[0, 0, 0]), [1]);
        assert_eq!(banned(&[0, 2]), [1, 3]);
        assert_eq!(banned(&[0, 4, 5]), [1, 6]);
        assert_eq!(banned(&[0, 5, 4]), [1]);
        // A context shorter than the phrase leaves the phrase free.
        assert_eq!(banned(&[2]), [1]);
        assert_eq!(banned(&[]), [1]);
    }

    #[test]
    fn no_stop_token_before_the_minimum_length() {
        let processors = Processors { min_new_tokens: 2, min_length: 4, ..Processors::default() };
        for (len, generated, banned) in [(2, 1, true), (3, 2, true), (4, 1, true), (4, 2, false)] {
            let mut scores = [1.0, 1.0, 1.0];
            processors.apply(&mut scores, &vec![0; len], generated, &[1, 2]);
            assert_eq!(scores.map(|score| score == f32::NEG_INFINITY), [false, banned, banned], "{len}");
        }
    }
}
