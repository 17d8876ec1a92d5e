//! `otter score`: the log-probability of an answer's tokens.

use anyhow::{Result, bail};
use otter_model::TextInput;
use otter_nn::IGNORE_INDEX;
use serde_json::json;

use super::model;
use super::pictures::{self, Pictures};
use crate::arguments::Score;
use crate::output;

/// Runs the command.
pub fn run(arguments: &Score) -> Result<()> {
    let model = model::load(&arguments.model)?;
    let prompt = if arguments.chat {
        model::chat_prompt(&arguments.prompt, arguments.images.len())
    } else {
        arguments.prompt.clone()
    };
    let prompt_ids = model::prompt_ids(&model, &prompt)?;
    let answer_ids = model.tokenizer.encode(&arguments.answer)?;
    if answer_ids.is_empty() || prompt_ids.is_empty() {
        bail!(
            "nothing to score: the prompt has {} tokens, the answer {}",
            prompt_ids.len(),
            answer_ids.len()
        );
    }
    let mut pictures = Pictures::new(&model, arguments.rules);
    let vision = model::vision_input(&model, &arguments.images, &mut pictures, &prompt_ids)?;
    let counts = pictures.take_counts();
    pictures::warn(&counts);
    let mut labels = vec![IGNORE_INDEX; prompt_ids.len()];
    labels.extend(answer_ids.iter().map(|&id| i64::from(id)));
    let mut ids = prompt_ids;
    ids.extend(&answer_ids);
    let text = TextInput::single(ids, model.tokenizer.special().image);
    let scores = model.otter.log_probabilities(&model.parameters, vision.as_ref(), &text, &labels)?;
    let scores: Vec<f64> = scores.into_iter().flatten().collect();
    let sum: f64 = scores.iter().sum();
    if arguments.json {
        let mut value = json!({"token_logprobs": scores, "sum": sum, "token_ids": answer_ids});
        pictures::add_to_json(&mut value, &counts)?;
        return output::json(&value);
    }
    for (id, score) in answer_ids.iter().zip(&scores) {
        output::text(&format!("{score:10.4}  {}", model.tokenizer.decode(&[*id], false)?))?;
    }
    output::text(&format!("{sum:10.4}  sum"))
}
