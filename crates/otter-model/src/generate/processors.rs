//! Changes to the logits before a token is chosen, in the reference's order (`spec/model.md` 10.2): repetition penalty,
//! no-repeat n-gram, minimum length, minimum number of new tokens.

/// Which changes are made; the default changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Processors {
    /// Divides positive and multiplies negative logits of tokens already in the sequence; 1 is off.
    pub repetition_penalty: f32,
    /// Bans tokens that would complete an n-gram already in the sequence, prompt included; 0 is off.
    pub no_repeat_ngram_size: usize,
    /// No stop token before the sequence, prompt included, is this long.
    pub min_length: usize,
    /// No stop token before this many new tokens.
    pub min_new_tokens: usize,
}

impl Default for Processors {
    fn default() -> Self {
        Self { repetition_penalty: 1.0, no_repeat_ngram_size: 0, min_length: 0, min_new_tokens: 0 }
    }
}

impl Processors {
    /// Changes the scores of the token that follows `ids`, `generated` of which are new.
    pub fn apply(&self, scores: &mut [f32], ids: &[u32], generated: usize, stop_token: u32) {
        if self.repetition_penalty != 1.0 {
            self.penalise_repetition(scores, ids);
        }
        if self.no_repeat_ngram_size > 0 {
            for token in banned_tokens(ids, self.no_repeat_ngram_size) {
                if let Some(score) = scores.get_mut(token as usize) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
        if (ids.len() < self.min_length || generated < self.min_new_tokens)
            && let Some(score) = scores.get_mut(stop_token as usize)
        {
            *score = f32::NEG_INFINITY;
        }
    }

    fn penalise_repetition(&self, scores: &mut [f32], ids: &[u32]) {
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

/// Tokens that would complete an n-gram that `ids` holds already.
fn banned_tokens(ids: &[u32], n: usize) -> Vec<u32> {
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
        processors.apply(&mut scores, &[0, 1, 0], 0, 9);
        assert_eq!(scores, [2.0, -8.0, 1.0]);
    }

    #[test]
    fn ngrams_of_the_prompt_are_banned() {
        assert_eq!(banned_tokens(&[1, 2, 3, 1, 2], 3), [3]);
        assert_eq!(banned_tokens(&[1, 2, 3, 1, 2], 1), [1, 2, 3, 1, 2]);
        assert!(banned_tokens(&[1], 3).is_empty());
        assert!(banned_tokens(&[], 2).is_empty());
    }

    #[test]
    fn the_stop_token_waits_for_the_minimum_length() {
        let processors = Processors { min_new_tokens: 2, min_length: 4, ..Processors::default() };
        for (len, generated, banned) in [(2, 1, true), (3, 2, true), (4, 1, true), (4, 2, false)] {
            let mut scores = [1.0, 1.0];
            processors.apply(&mut scores, &vec![0; len], generated, 1);
            assert_eq!(scores[1] == f32::NEG_INFINITY, banned, "{len} {generated}");
        }
    }
}
