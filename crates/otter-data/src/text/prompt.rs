//! Prompt templates.

use serde::{Deserialize, Serialize};

/// Text of the image placeholder token.
pub const IMAGE_TOKEN: &str = "<image>";
/// Text of the token before an answer.
pub const ANSWER_TOKEN: &str = "<answer>";
/// Text of the token after an answer.
pub const END_OF_CHUNK_TOKEN: &str = "<|endofchunk|>";

/// Text of the token that ends a question and an answer of Idefics.
pub const END_OF_UTTERANCE_TOKEN: &str = "<end_of_utterance>";
/// Text of the token around every image of Idefics.
pub const FAKE_TOKEN: &str = "<fake_token_around_image>";
/// What begins an answer of Fuyu: the byte 4, which has a token of its own.
pub const FUYU_ANSWER: &str = "\u{4}";

/// The shape of a turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstructionFormat {
    /// `<image>User:{q} GPT:<answer>{a}<|endofchunk|>`
    #[default]
    Simple,
    /// `[INST]<image>\n{q}[/INST]<answer>{a}<|endofchunk|>`
    Llama2,
    /// `User:<fake_token_around_image><image><fake_token_around_image>{q}<end_of_utterance>\nAssistant:<answer>{a}<end_of_utterance>\n`,
    /// without the newline at the end of a sample.
    Idefics,
    /// `User:{q} Assistant:` byte 4 ` {a}`: images have no place in the text.
    Fuyu,
}

impl InstructionFormat {
    /// Text of the token that ends an answer; Fuyu has none.
    pub fn end_token(self) -> Option<&'static str> {
        match self {
            Self::Simple | Self::Llama2 => Some(END_OF_CHUNK_TOKEN),
            Self::Idefics => Some(END_OF_UTTERANCE_TOKEN),
            Self::Fuyu => None,
        }
    }

    /// How many end tokens a turn has.
    pub fn ends_of_turn(self) -> usize {
        if self == Self::Idefics { 2 } else { 1 }
    }

    /// Special tokens that a sample of this format is made of.
    pub fn special_tokens(self) -> &'static [&'static str] {
        match self {
            Self::Simple | Self::Llama2 => &[IMAGE_TOKEN, ANSWER_TOKEN, END_OF_CHUNK_TOKEN],
            Self::Idefics => &[IMAGE_TOKEN, ANSWER_TOKEN, END_OF_UTTERANCE_TOKEN, FAKE_TOKEN],
            Self::Fuyu => &[],
        }
    }
}

/// A piece of a prompt: the template's own words and tokens, or text from the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Ordinary words of the template.
    Words(&'static str),
    /// A special token of the template.
    Special(&'static str),
    /// Text of the user, the answer or a task description.
    Data(String),
}

impl Piece {
    /// The characters of this piece.
    pub fn text(&self) -> &str {
        match self {
            Self::Words(text) | Self::Special(text) => text,
            Self::Data(text) => text,
        }
    }
}

/// Whether and how a turn starts with image placeholders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placeholder {
    /// The turn has no image.
    Absent,
    /// The turn has this many images. Zero is the first turn of a text-only sample, which keeps
    /// the shape of a turn with image.
    Images(usize),
}

/// The pieces of one turn, from cleaned question and answer.
pub fn turn_pieces(
    format: InstructionFormat,
    placeholder: Placeholder,
    question: String,
    answer: String,
) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(12);
    let images = match placeholder {
        Placeholder::Absent => 0,
        Placeholder::Images(count) => count,
    };
    match format {
        InstructionFormat::Simple | InstructionFormat::Llama2 => {}
        InstructionFormat::Idefics => return idefics_pieces(images, question, answer),
        InstructionFormat::Fuyu => {
            let words = |text| Piece::Words(text);
            let (question, answer) = (Piece::Data(question), Piece::Data(answer));
            return vec![
                words("User:"),
                question,
                words(" Assistant:"),
                words(FUYU_ANSWER),
                words(" "),
                answer,
            ];
        }
    }
    if format == InstructionFormat::Llama2 {
        pieces.push(Piece::Words("[INST]"));
    }
    pieces.extend((0..images).map(|_| Piece::Special(IMAGE_TOKEN)));
    match format {
        InstructionFormat::Simple => pieces.push(Piece::Words("User:")),
        _ if placeholder != Placeholder::Absent => pieces.push(Piece::Words("\n")),
        _ => {}
    }
    pieces.push(Piece::Data(question));
    pieces.push(Piece::Words(match format {
        InstructionFormat::Simple => " GPT:",
        _ => "[/INST]",
    }));
    pieces.push(Piece::Special(ANSWER_TOKEN));
    pieces.push(Piece::Data(answer));
    pieces.push(Piece::Special(END_OF_CHUNK_TOKEN));
    pieces
}

fn idefics_pieces(images: usize, question: String, answer: String) -> Vec<Piece> {
    let mut pieces = vec![Piece::Words("User:")];
    for _ in 0..images {
        pieces.extend([Piece::Special(FAKE_TOKEN), Piece::Special(IMAGE_TOKEN)]);
    }
    if images > 0 {
        pieces.push(Piece::Special(FAKE_TOKEN));
    }
    pieces.extend([
        Piece::Data(question),
        Piece::Special(END_OF_UTTERANCE_TOKEN),
        Piece::Words("\nAssistant:"),
        Piece::Special(ANSWER_TOKEN),
        Piece::Data(answer),
        Piece::Special(END_OF_UTTERANCE_TOKEN),
        Piece::Words("\n"),
    ]);
    pieces
}

/// The pieces as one string.
pub fn pieces_text(pieces: &[Piece]) -> String {
    pieces.iter().map(Piece::text).collect()
}

/// A prompt for generation: like a turn, ending with the answer token.
pub fn inference_prompt(format: InstructionFormat, images: usize, question: &str) -> String {
    let mut pieces = turn_pieces(format, Placeholder::Images(images), question.to_owned(), String::new());
    let behind = match format {
        InstructionFormat::Simple | InstructionFormat::Llama2 | InstructionFormat::Fuyu => 2,
        InstructionFormat::Idefics => 3,
    };
    pieces.truncate(pieces.len() - behind);
    pieces_text(&pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inference_prompt_stops_at_the_answer_token() {
        assert_eq!(inference_prompt(InstructionFormat::Simple, 1, "q"), "<image>User:q GPT:<answer>");
        assert_eq!(inference_prompt(InstructionFormat::Llama2, 1, "q"), "[INST]<image>\nq[/INST]<answer>");
        assert_eq!(
            inference_prompt(InstructionFormat::Idefics, 1, "q"),
            "User:<fake_token_around_image><image><fake_token_around_image>q<end_of_utterance>\nAssistant:<answer>"
        );
        assert_eq!(inference_prompt(InstructionFormat::Fuyu, 1, "q"), "User:q Assistant:\u{4}");
    }
}
