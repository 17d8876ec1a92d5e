//! Special tokens: whose order their ids follow, whether that is the order of the class that the configuration names, and
//! how the tokenizer fits the embedding table.

use crate::config::checkpoint_config::ModelFamily;
use crate::facts::model::{Facts, Language};
use crate::tokenizer::load::read_tokenizer;
use crate::tokenizer::write::TokenOrder;
use otter_data::{SpecialTokens, TextTokenizer};
use std::path::Path;

/// What the tokenizer's files say, compared with the configuration and the table.
#[derive(Debug, Clone)]
pub struct TokenCheck {
    /// The ids that count: those of the files.
    pub special: SpecialTokens,
    /// Number of ids, added tokens included.
    pub vocab_size: usize,
    /// The order that the ids follow; `None` where they follow neither.
    pub order: Option<TokenOrder>,
    /// The order of the class that the configuration names.
    pub class_order: Option<TokenOrder>,
    /// Table rows that no token belongs to.
    pub rows_without_token: usize,
    /// Things to know that are nothing odd.
    pub notes: Vec<String>,
    /// Things that are wrong.
    pub warnings: Vec<String>,
}

impl TokenCheck {
    /// Whether the ids are those that the class named by the configuration would give.
    pub fn matches_class(&self) -> Option<bool> {
        Some(self.order? == self.class_order?)
    }
}

/// Checks the tokenizer of a directory.
///
/// # Errors
/// Why there is no usable tokenizer, and what the original would look for.
pub(crate) fn check(
    directory: &Path,
    family: Option<ModelFamily>,
    facts: &Facts,
) -> Result<TokenCheck, String> {
    let loaded = read_tokenizer(directory).map_err(|error| match without_tokenizer(facts) {
        Some(expected) => format!("{error}. {expected}"),
        None => error.to_string(),
    })?;
    let special = *loaded.tokenizer.special();
    let vocab_size = loaded.tokenizer.vocab_size();
    let order = TokenOrder::of(&special);
    let class_order = family.map(|family| match family {
        ModelFamily::Otter => TokenOrder::Otter,
        ModelFamily::Flamingo => TokenOrder::Flamingo,
    });
    let (mut notes, mut warnings) = (Vec::new(), loaded.warnings);
    warnings.extend(loaded.broken.into_iter().map(|broken| format!("tokenizer: {broken}")));
    let (answer, pad, image) = (special.answer, special.pad, special.image);
    if let Some(order) = order {
        let (class, other) = names(order);
        notes.push(format!(
            "<answer> {answer} and <PAD> {pad} follow the order of the {class} class; the {other} class would use \
             <answer> {pad} and <PAD> {answer}"
        ));
        if let Some(wanted) = class_order.filter(|&wanted| wanted != order) {
            let (wanted, _) = names(wanted);
            warnings.push(format!(
                "<answer> is {answer} and <PAD> is {pad} in the tokenizer, the order of the {class} class, but config.json \
                 names the {wanted} class, which gives <answer> {pad} and <PAD> {answer}; the tokenizer counts here. Where \
                 answers look untrained, the weights were trained with the other order: swap the two ids in the tokenizer"
            ));
        }
    } else {
        notes.push(format!(
            "<image> {image}, <answer> {answer} and padding {pad} follow neither class's order"
        ));
    }
    if let Some(rows) = facts.rows {
        if rows < vocab_size {
            warnings.push(format!(
                "the tokenizer has {vocab_size} tokens, but the embedding table only {rows} rows; tokens from {rows} on \
                 cannot be used"
            ));
        } else if rows > vocab_size {
            notes.push(format!(
                "rows {vocab_size} to {} of the embedding table belong to no token; they take part in the softmax",
                rows - 1
            ));
        }
    }
    notes.push(beginning(&loaded.tokenizer));
    let rows_without_token = facts.rows.map_or(0, |rows| rows.saturating_sub(vocab_size));
    Ok(TokenCheck { special, vocab_size, order, class_order, rows_without_token, notes, warnings })
}

/// What stands in front of samples and prompts, in words.
pub fn beginning(tokenizer: &TextTokenizer) -> String {
    let shown = |prefix: &[u32]| match prefix {
        [] => "nothing".to_owned(),
        _ => format!("{prefix:?}"),
    };
    let (sample, prompt) = (shown(tokenizer.sample_prefix()), shown(tokenizer.prompt_prefix()));
    match tokenizer.begins() {
        Some(_) => format!("in training and in use every sequence begins with {prompt}"),
        None => format!(
            "a sample begins with {sample} in training, a prompt with {prompt}, as in the original; a model tuned from this \
             one records which it was tuned with (`otter_input.begin_token` of config.json)"
        ),
    }
}

fn names(order: TokenOrder) -> (&'static str, &'static str) {
    match order {
        TokenOrder::Otter => ("Otter", "Flamingo"),
        TokenOrder::Flamingo => ("Flamingo", "Otter"),
    }
}

/// Releases come without a tokenizer; their classes fetch one by name and add tokens to it.
fn without_tokenizer(facts: &Facts) -> Option<String> {
    let Language::Known(family) = facts.language? else { return None };
    let (repository, base) = match family.name {
        "LLaMA" => ("luodian/llama-7b-hf", 32000),
        "MPT" => ("mosaicml/mpt-7b-instruct", 50277),
        "MosaicGPT" => ("mosaicml/mosaic-llama-redpajama-final-candidate", 50277),
        _ => return None,
    };
    Some(format!(
        "The original takes that of {repository} and adds <|endofchunk|> {base}, <image> {}, then <answer> {} and <PAD> {} \
         (Otter class) or <PAD> {} and <answer> {} (Flamingo class)",
        base + 1,
        base + 2,
        base + 3,
        base + 2,
        base + 3
    ))
}
