//! The list of families of language models, and what a family says of itself.

use serde_json::{Map, Value};

use super::block::{BlockParts, TransformerBlock};
use super::config::{TextConfig, TextSizes};
use super::config_json::{KeyError, Section};
use super::families;
use super::gguf::GgufArchitecture;
use crate::config::ConfigError;

/// What a family's configuration answers.
pub(crate) trait TextFamily {
    /// Names and numbers.
    fn sizes(&self) -> TextSizes;
    /// Changes the number of rows of the token tables.
    fn set_vocab_size(&mut self, rows: usize);
    /// Checks that every size is possible and none is absurd.
    fn validate(&self) -> Result<(), ConfigError>;
    /// Registers one decoder layer.
    fn block(&self, parts: BlockParts<'_>) -> TransformerBlock;
    /// Sets the keys of a `text_config` that only this family has.
    fn write(&self, map: &mut Map<String, Value>);
    /// What the original, or Transformers, writes around the sizes of a new model.
    fn template(&self, tied: bool) -> Value;
}

/// A class of language models: how its files name it and its parts, and how its configuration is read.
#[derive(Debug)]
pub struct Family {
    /// For messages.
    pub name: &'static str,
    /// Values of `architectures`, each with its `model_type`.
    pub classes: &'static [(&'static str, &'static str)],
    /// Keys of its `text_config`.
    pub keys: &'static [&'static str],
    /// Objects inside it, with their keys.
    pub inner_keys: &'static [(&'static str, &'static [&'static str])],
    /// Whether the class has one table for input and output.
    pub has_one_table: bool,
    /// Whether the class makes its two tables one when the file does not say.
    pub ties_by_default: bool,
    /// Whether the original decodes with a cache when the file does not say.
    pub uses_cache: bool,
    /// Reads a `text_config`.
    pub read: fn(&Section<'_>, &mut Vec<String>) -> Result<TextConfig, KeyError>,
    /// What a file without the head leaves out in front of every name.
    pub prefix: &'static str,
    /// Path of the decoder layers.
    pub layers: &'static str,
    /// Input embedding table.
    pub input_table: &'static str,
    /// Output table; `None` where it is always the input table.
    pub output_table: Option<&'static str>,
    /// Keys of the configuration that hold the width of the hidden states, in the order they are looked for.
    pub width_keys: &'static [&'static str],
    /// What llama.cpp calls it, where it knows it.
    pub gguf: &'static [GgufArchitecture],
    /// Keys that hold the number of layers.
    pub depth_keys: &'static [&'static str],
}

/// Every language model that can be read, converted and inspected.
pub static FAMILIES: [&Family; 7] = [
    &families::llama::LLAMA,
    &families::mpt::MPT,
    &families::mpt::TRANSFORMERS_MPT,
    &families::mpt::MOSAIC_GPT,
    &families::gpt_neox::GPT_NEOX,
    &families::opt::OPT,
    &families::falcon::FALCON,
];

/// Families are told apart by their names; the two classes of MPT are one.
impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Family {}

impl Family {
    /// Names of all of them, each once.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let first = |at: usize| FAMILIES[..at].iter().all(|other| *other != FAMILIES[at]);
        (0..FAMILIES.len()).filter(move |&at| first(at)).map(|at| FAMILIES[at].name)
    }

    /// The family of this class, or else of this `model_type`.
    pub fn find(model_type: Option<&str>, class: Option<&str>) -> Option<&'static Self> {
        let find = |test: &dyn Fn(&(&str, &str)) -> bool| {
            FAMILIES.iter().copied().find(|family| family.classes.iter().any(test))
        };
        let by_class = class.and_then(|class| find(&|(name, _)| *name == class));
        by_class.or_else(|| model_type.and_then(|found| find(&|(_, name)| *name == found)))
    }

    /// The name that a tensor of the plain language model has inside an Otter.
    pub fn wrapped_name(&self, name: &str) -> String {
        let layer = name.strip_prefix(self.layers).and_then(|rest| rest.strip_prefix('.')?.split_once('.'));
        match layer {
            Some((number, rest)) if is_number(number) && !rest.is_empty() => {
                format!("{}.{number}.decoder_layer.{rest}", self.wrapped_layers())
            }
            _ => format!("lang_encoder.{name}"),
        }
    }

    /// The input table's name inside an Otter.
    pub fn wrapped_input_table(&self) -> String {
        format!("lang_encoder.{}", self.input_table)
    }

    /// The output table's name inside an Otter, where the family has one.
    pub fn wrapped_output_table(&self) -> Option<String> {
        self.output_table.map(|table| format!("lang_encoder.{table}"))
    }

    /// Path of the decoder layers inside an Otter.
    pub fn wrapped_layers(&self) -> String {
        format!("lang_encoder.{}", self.layers)
    }

    /// The family whose configuration this is: the one that `architectures` names, or else `model_type`.
    ///
    /// # Errors
    /// A class or type that is not supported, or two that do not fit.
    pub fn of(text: &Section<'_>) -> Result<&'static Self, KeyError> {
        let classes =
            || FAMILIES.iter().flat_map(|family| family.classes.iter().map(move |&class| (class, *family)));
        let list = |name: fn((&'static str, &'static str)) -> &'static str| {
            let mut names: Vec<&str> = classes().map(|(class, _)| name(class)).collect();
            names.dedup();
            format!("supported: {}", names.join(", "))
        };
        let model_type = text.text("model_type")?;
        if let Some(class) = text.first_architecture()? {
            let own = || classes().filter(|((name, _), _)| *name == class);
            let Some(((_, own_type), family)) = own().next() else {
                return Err(text.wrong("architectures", &class, &list(|class| class.0)));
            };
            return match model_type {
                Some(other) if own().all(|((_, own_type), _)| own_type != other) => {
                    let expected = format!("{class} has the type {own_type}");
                    Err(text.wrong("model_type", &other, &expected))
                }
                _ => Ok(family),
            };
        }
        let found = model_type.unwrap_or("missing");
        match classes().find(|((_, name), _)| *name == found) {
            Some((_, family)) => Ok(family),
            None => Err(text.wrong("model_type", &found, &list(|class| class.1))),
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
