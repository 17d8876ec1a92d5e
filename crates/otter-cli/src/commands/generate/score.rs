//! `otter score`: the log-probability of an answer's tokens, of prompt and answer read as one text.

use anyhow::{Result, bail};
use otter_data::JoinedText;
use otter_model::TextInput;
use otter_nn::IGNORE_INDEX;
use serde_json::json;

use super::model;
use super::pictures::{self, Pictures};
use super::settings::warn_beyond_context;
use crate::arguments::Score;
use crate::output;

/// Runs the command.
pub fn run(arguments: &Score) -> Result<()> {
    let model = model::load(&arguments.model)?;
    let prompt = if arguments.chat {
        model::chat_prompt(&arguments.prompt, model::media_of_question(&model, arguments.images.len()).len())
    } else {
        arguments.prompt.clone()
    };
    let JoinedText { ids, start, border_token } = model::joined_ids(&model, &prompt, &arguments.answer)?;
    let answer_ids = ids[start..].to_vec();
    if start == 0 || answer_ids.is_empty() {
        bail!(
            "nothing to score: of the tokens of prompt and answer, {start} stand before the answer and {} are the answer's",
            answer_ids.len()
        );
    }
    if border_token {
        eprintln!(
            "warning: the answer's first token, {:?}, begins in the prompt: it is counted with the answer",
            model.tokenizer.decode(&answer_ids[..1], false)?
        );
    }
    warn_beyond_context(&model, "the prompt with its answer", ids.len(), 0);
    let mut pictures = Pictures::new(&model, arguments.rules);
    let vision = model::vision_input(&model, &arguments.images, &mut pictures, &ids)?;
    let counts = pictures.take_counts();
    pictures::warn(&counts);
    let mut labels = vec![IGNORE_INDEX; start];
    labels.extend(answer_ids.iter().map(|&id| i64::from(id)));
    let text = TextInput::single(ids, model.tokenizer.special().image);
    let scores = model.otter.log_probabilities(&model.parameters, vision.as_ref(), &text, &labels)?;
    let scores: Vec<f64> = scores.into_iter().flatten().collect();
    let sum: f64 = scores.iter().sum();
    if arguments.json {
        let mut value = json!({
            "token_logprobs": scores,
            "sum": sum,
            "token_ids": answer_ids,
            "border_token": border_token,
        });
        pictures::add_to_json(&mut value, &counts)?;
        return output::json(&value);
    }
    for (id, score) in answer_ids.iter().zip(&scores) {
        output::text(&format!("{score:10.4}  {}", model.tokenizer.decode(&[*id], false)?))?;
    }
    output::text(&format!("{sum:10.4}  sum"))
}
