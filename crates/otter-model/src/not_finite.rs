//! Why a result is not finite. This is looked for only when one is: weights first, then the input, then the way through the
//! model.

use std::fmt;

use otter_nn::{Float, NotFinite, Parameters, Tensor};

use crate::ModelError;
use crate::input::{TextInput, VisionInput};
use crate::otter::Otter;

/// Parameters that a message names.
const NAMED: usize = 3;

/// Where numbers that are not finite come from.
#[derive(Clone, Debug, PartialEq)]
pub enum NotFiniteCause {
    /// These parameters, at least one.
    Parameters(Vec<(String, NotFinite)>),
    /// Pixels, or features in their place, of a frame.
    Frame {
        /// The frame, of all that were given.
        frame: usize,
        /// What is in it.
        found: NotFinite,
    },
    /// The first result on the way that is not finite, though all parameters are.
    Overflow {
        /// The name of the result in a trace.
        stage: String,
        /// Its row: a token of the batch, or a patch or latent of all of them.
        row: usize,
    },
    /// All parameters are finite, and it is not known where numbers become too large.
    Unknown,
}

impl Otter {
    /// The error that says why `what`, which is not finite, is not. Reads all weights, and runs the model again where they
    /// are finite and there is an input to run it on.
    pub fn not_finite<T: Float>(
        &self,
        parameters: &Parameters<T>,
        vision: Option<&VisionInput<T>>,
        text: Option<&TextInput>,
        what: String,
    ) -> ModelError {
        let cause = Box::new(self.cause(parameters, vision, text));
        ModelError::NotFinite { what, cause }
    }

    fn cause<T: Float>(
        &self,
        parameters: &Parameters<T>,
        vision: Option<&VisionInput<T>>,
        text: Option<&TextInput>,
    ) -> NotFiniteCause {
        let found = parameters.not_finite();
        if !found.is_empty() {
            return NotFiniteCause::Parameters(found);
        }
        if let Some(cause) = vision.and_then(bad_frame) {
            return cause;
        }
        let mut first = None;
        let mut trace = |stage: &str, result: &Tensor<T>| {
            if first.is_none() {
                let row = |found: NotFinite| found.first as usize / result.width().max(1);
                let found = NotFinite::find([result.to_host().data()]).map(row);
                first = found.map(|row| NotFiniteCause::Overflow { stage: stage.to_owned(), row });
            }
        };
        if let Some(text) = text {
            // What fails here failed before too, or is of no help.
            let _ = self.forward(parameters, vision, text, &mut trace);
        }
        first.unwrap_or(NotFiniteCause::Unknown)
    }
}

fn bad_frame<T: Float>(vision: &VisionInput<T>) -> Option<NotFiniteCause> {
    let pixels = vision.pixels.to_host();
    let size = pixels.len() / pixels.shape().first().copied().unwrap_or(0).max(1);
    let mut frames = pixels.data().chunks(size.max(1)).enumerate();
    frames.find_map(|(frame, pixels)| {
        NotFinite::find([pixels]).map(|found| NotFiniteCause::Frame { frame, found })
    })
}

/// A result of a trace in words.
fn stage_in_words(stage: &str) -> String {
    match stage.split_once('.') {
        Some(("xattn", layer)) => format!("the gated cross-attention before decoder layer {layer}"),
        Some(("hidden", layer)) => format!("decoder layer {layer}"),
        _ => match stage {
            "vision_features" => "the vision tower".to_owned(),
            "perceiver_out" => "the Perceiver resampler".to_owned(),
            "final_norm" => "the last norm of the language model".to_owned(),
            other => other.to_owned(),
        },
    }
}

impl fmt::Display for NotFiniteCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameters(found) => {
                let more = found.len().saturating_sub(NAMED);
                let named: Vec<String> =
                    found.iter().take(NAMED).map(|(name, found)| format!("{name} ({found})")).collect();
                write!(f, "{} parameter(s) of the checkpoint are not finite: {}", found.len(), named.join(", "))?;
                if more > 0 {
                    write!(f, " and {more} more")?;
                }
                f.write_str("; list them with `otter inspect --scan` and take another copy of the checkpoint")
            }
            Self::Frame { frame, found } => {
                write!(f, "frame {frame} of the vision input is not finite ({found}); check how it was made")
            }
            Self::Overflow { stage, row } => write!(
                f,
                "all weights are finite, but the output of {} is not from row {row} on: numbers became too large there; \
                 check how the checkpoint was trained and converted",
                stage_in_words(stage)
            ),
            Self::Unknown => f.write_str(
                "all weights are finite, so numbers on the way became too large; check how the checkpoint was trained \
                 and converted",
            ),
        }
    }
}
