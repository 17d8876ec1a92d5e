//! Element types as values of options: one type of the library, and what each option takes of it.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use otter_nn::{DType, QuantizedFormat};

/// A value, its name and what help says of it.
type Choices<T> = &'static [(T, &'static str, &'static str)];

/// Takes one of some values by its name.
fn one_of<T: Copy + Send + Sync + 'static>(choices: Choices<T>) -> impl TypedValueParser<Value = T> {
    let values = choices.iter().map(|&(_, name, help)| PossibleValue::new(name).help(help));
    PossibleValuesParser::new(values).try_map(|name| {
        let found = choices.iter().find(|(_, known, _)| *known == name);
        found.map(|(value, ..)| *value).ok_or("not one of the values")
    })
}

/// How products of many rows are computed.
pub fn products() -> impl TypedValueParser<Value = DType> {
    one_of(&[(DType::F32, "f32", "In f32"), (DType::Bf16, "bf16", "Of factors rounded to bfloat16")])
}

/// Types of the tensors of a checkpoint.
pub fn floats() -> impl TypedValueParser<Value = DType> {
    one_of(&[
        (DType::F32, "f32", "32-bit floats"),
        (DType::F16, "f16", "16-bit floats of IEEE 754; a value they cannot hold is an error"),
        (DType::Bf16, "bf16", "16-bit floats with the range of 32-bit ones"),
    ])
}

/// Types of the large matrices of a GGUF file.
pub fn stored() -> impl TypedValueParser<Value = DType> {
    one_of(&[
        (DType::F32, "f32", "32-bit floats: exact"),
        (DType::F16, "f16", "16-bit floats"),
        (DType::Bf16, "bf16", "Brain floats"),
        (DType::Q8_0, "q8_0", "8.5 bits an element"),
        (DType::Q4_0, "q4_0", "4.5 bits an element, one scale for 32"),
        (DType::Q4K, "q4_k", "4.5 bits an element, scale and minimum for 32"),
    ])
}

/// Blocks that weights are kept in.
pub fn blocks() -> impl TypedValueParser<Value = QuantizedFormat> {
    one_of(&[
        (QuantizedFormat::Q8_0, "q8_0", "8.5 bits a weight"),
        (QuantizedFormat::Q4K, "q4_k", "4.5 bits a weight; tables of tokens, vision tower and resampler 8.5"),
    ])
}
