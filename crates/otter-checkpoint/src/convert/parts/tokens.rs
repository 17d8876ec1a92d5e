//! Ids of the tokens that Otter adds, and the rows of the embedding tables that belong to them.
//!
//! `<answer>` and `<PAD>` change places between two classes of the original: a checkpoint must be used
//! with the order it was trained with. The order is therefore an option, and is recorded.

use crate::tokenizer::files::{ANSWER, DEFAULT_PAD, END_OF_CHUNK, IMAGE};
use crate::tokenizer::write::{AddedSpecialTokens, TokenOrder};
use std::ops::Range;

/// The word for an order, as the command line and the report have it.
pub(in crate::convert) fn order_name(order: TokenOrder) -> &'static str {
    match order {
        TokenOrder::Otter => "otter",
        TokenOrder::Flamingo => "flamingo",
    }
}

/// Rows of a new table, each from one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::convert) enum RowSource {
    /// Rows of the trained part.
    Trained(Range<usize>),
    /// Rows of the base language model.
    Base(Range<usize>),
    /// Rows that exist nowhere: the number and the tokens they belong to.
    New(Range<usize>),
}

/// Whether a trained table has exactly the rows OpenFlamingo gives it: those of the base tokenizer, then
/// `<|endofchunk|>`, `<image>` and, where the base has no pad token, `<PAD>`.
pub(in crate::convert) fn is_open_flamingo_table(trained: usize, tokens: &AddedSpecialTokens) -> bool {
    let known = open_flamingo_ids(tokens);
    known.iter().min().is_some_and(|first| trained == first + known.len())
}

/// Ids that the tokens OpenFlamingo adds have now, in the order in which it adds them.
fn open_flamingo_ids(tokens: &AddedSpecialTokens) -> Vec<usize> {
    let ids = added_ids(tokens);
    let id = |token: &str| ids.iter().find(|(text, _)| text == token).map(|&(_, id)| id as usize);
    [END_OF_CHUNK, IMAGE, DEFAULT_PAD].into_iter().filter_map(id).collect()
}

/// Texts and ids of Otter's tokens, whether they were added just now or before. A pad token that lies apart from them is
/// the language model's own.
pub(in crate::convert) fn added_ids(tokens: &AddedSpecialTokens) -> Vec<(String, u32)> {
    let special = &tokens.special;
    let mut ids = vec![
        (END_OF_CHUNK.to_owned(), special.endofchunk),
        (IMAGE.to_owned(), special.image),
        (ANSWER.to_owned(), special.answer),
    ];
    if special.pad > special.image && special.pad <= special.image + 2 {
        ids.push((DEFAULT_PAD.to_owned(), special.pad));
    }
    ids.sort_by_key(|&(_, id)| id);
    ids
}

/// Where each of `total` rows of a table comes from.
///
/// `trained` is the number of rows of the trained part's table (0 when there is none), `base` that of the base language
/// model. The rows of OpenFlamingo's own table go where their tokens have their ids; those of any other trained table
/// stay in place. What the trained part does not have is the base's, padding rows included; what neither has is new.
pub(in crate::convert) fn table_rows(
    total: usize,
    trained: usize,
    base: usize,
    tokens: &AddedSpecialTokens,
) -> Vec<RowSource> {
    let moved = if is_open_flamingo_table(trained, tokens) { open_flamingo_ids(tokens) } else { Vec::new() };
    let source = |row: usize| {
        let trained_row = match moved.iter().position(|&id| id == row) {
            Some(position) => Some(trained - moved.len() + position),
            None => (row < trained - moved.len()).then_some(row),
        };
        match trained_row {
            Some(row) => RowSource::Trained(row..row + 1),
            None if row < base => RowSource::Base(row..row + 1),
            None => RowSource::New(row..row + 1),
        }
    };
    let mut sources: Vec<RowSource> = Vec::new();
    for next in (0..total).map(source) {
        match (sources.last_mut(), &next) {
            (Some(RowSource::Trained(last)), RowSource::Trained(row))
            | (Some(RowSource::Base(last)), RowSource::Base(row))
            | (Some(RowSource::New(last)), RowSource::New(row))
                if last.end == row.start =>
            {
                last.end = row.end;
            }
            _ => sources.push(next),
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;
    use otter_data::SpecialTokens;

    fn tokens(first: u32, order: TokenOrder) -> AddedSpecialTokens {
        let added: Vec<(String, u32)> = order.tokens().iter().map(|t| (*t).to_owned()).zip(first..).collect();
        let (answer, pad) = match order {
            TokenOrder::Otter => (first + 2, first + 3),
            TokenOrder::Flamingo => (first + 3, first + 2),
        };
        let special =
            SpecialTokens { bos: None, eos: None, pad, endofchunk: first, image: first + 1, answer };
        AddedSpecialTokens { added, special, vocab_size: first as usize + 4, begins: true }
    }

    fn rows(trained: usize, base: usize, tokens: &AddedSpecialTokens) -> Vec<RowSource> {
        table_rows(trained.max(base).max(tokens.vocab_size), trained, base, tokens)
    }

    #[test]
    fn rows_follow_their_tokens() {
        use RowSource::{Base, New, Trained};
        // LLaMA: 384 base rows, 387 trained; the new row is <answer>.
        assert_eq!(rows(387, 384, &tokens(384, TokenOrder::Flamingo)), [Trained(0..387), New(387..388)]);
        let otter = rows(387, 384, &tokens(384, TokenOrder::Otter));
        assert_eq!(otter, [Trained(0..386), New(386..387), Trained(386..387)]);
        // MPT: a padded table of 384 rows, 366 trained; <answer> is one of the padding rows.
        assert_eq!(rows(366, 384, &tokens(363, TokenOrder::Flamingo)), [Trained(0..366), Base(366..384)]);
        let otter = rows(366, 384, &tokens(363, TokenOrder::Otter));
        assert_eq!(otter, [Trained(0..365), Base(365..366), Trained(365..366), Base(367..384)]);
        // A plain language model.
        assert_eq!(rows(0, 384, &tokens(384, TokenOrder::Otter)), [Base(0..384), New(384..388)]);
        // A table that has a row for <answer> too is not OpenFlamingo's own.
        for order in [TokenOrder::Otter, TokenOrder::Flamingo] {
            assert_eq!(rows(388, 384, &tokens(384, order)), [Trained(0..388)]);
            assert_eq!(rows(384, 384, &tokens(363, order)), [Trained(0..384)]);
        }
    }

    #[test]
    fn tokens_that_were_there_before_are_known() {
        let mut known = tokens(384, TokenOrder::Otter);
        known.added.clear();
        assert_eq!(rows(388, 388, &known), [RowSource::Trained(0..388)]);
        let moved = [RowSource::Trained(0..386), RowSource::Base(386..387), RowSource::Trained(386..387)];
        assert_eq!(rows(387, 388, &known), moved);
        // The base has a pad token of its own.
        known.special.pad = 0;
        known.vocab_size = 387;
        assert_eq!(rows(386, 387, &known), [RowSource::Trained(0..386), RowSource::Base(386..387)]);
        assert!(is_open_flamingo_table(386, &known) && !is_open_flamingo_table(387, &known));
    }
}
