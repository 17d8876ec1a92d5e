//! `otter chat`: a conversation about images in the terminal.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Result;
use otter_checkpoint::LoadedModel;
use otter_data::prompt::{ANSWER_TOKEN, END_OF_CHUNK_TOKEN};
use otter_model::generate::PromptBatch;

use super::model;
use crate::arguments::{Chat, SamplingArguments};

/// What was said, as the model sees it.
#[derive(Default)]
struct Conversation {
    text: String,
    images: Vec<PathBuf>,
    pending: Vec<PathBuf>,
}

/// Runs the conversation until end of input or `/quit`.
pub fn run(arguments: &Chat) -> Result<()> {
    let model = model::load(&arguments.model)?;
    let interactive = std::io::stdin().is_terminal();
    let mut conversation = Conversation::default();
    for image in &arguments.images {
        add_image(&mut conversation, image.clone());
    }
    if interactive {
        eprintln!("/image FILE shows an image with the next question, /reset forgets, /quit ends.");
    }
    let stdin = std::io::stdin();
    let mut line = String::new();
    loop {
        if interactive {
            eprint!("you> ");
        }
        line.clear();
        if stdin.lock().read_line(&mut line)? == 0 {
            return Ok(());
        }
        let text = line.trim();
        match text.split_once(char::is_whitespace).unwrap_or((text, "")) {
            ("", _) => {}
            ("/quit" | "/exit", _) => return Ok(()),
            ("/reset", _) => conversation = Conversation::default(),
            ("/image", "") => eprintln!("/image needs a file name"),
            ("/image", file) => add_image(&mut conversation, PathBuf::from(file.trim())),
            (command, _) if command.starts_with('/') => {
                eprintln!("unknown command {command}; there are /image FILE, /reset and /quit");
            }
            _ => {
                if let Err(error) = answer(&model, &mut conversation, text, &arguments.sampling) {
                    eprintln!("error: {error:#}");
                }
            }
        }
    }
}

/// Checks that the image opens, so that a wrong name is reported at once.
fn add_image(conversation: &mut Conversation, file: PathBuf) {
    match otter_data::load_image_file(&file) {
        Ok(image) => {
            eprintln!("({} x {} pixels, shown with the next question)", image.width(), image.height());
            conversation.pending.push(file);
        }
        Err(error) => eprintln!("error: {error}"),
    }
}

/// Asks the model and prints its answer as it comes.
fn answer(
    model: &LoadedModel,
    conversation: &mut Conversation,
    question: &str,
    sampling: &SamplingArguments,
) -> Result<()> {
    let mut images = conversation.images.clone();
    images.extend(conversation.pending.iter().cloned());
    let question = without_special_tokens(question);
    let turn = model::chat_prompt(&question, conversation.pending.len());
    let prompt = format!("{}{turn}", conversation.text);
    let ids = model::prompt_ids(model, &prompt)?;
    let vision = model::vision_input(model, &images, &ids)?;
    let batch = PromptBatch::new(&[ids], 0, model.tokenizer.special().image)?;
    let options = model::generation_options(model, sampling, batch.text().length)?;
    let mut decoder = model.tokenizer.stream_decoder(true);
    let mut stdout = std::io::stdout().lock();
    let mut said = String::new();
    let mut failure = None;
    model.otter.generate(&model.parameters, vision.as_ref(), &batch, &options, &mut |_, id| {
        let piece = match decoder.push(id) {
            Ok(piece) => piece,
            Err(error) => {
                failure = Some(anyhow::Error::from(error));
                return false;
            }
        };
        let before = said.len();
        said.push_str(&piece);
        let (kept, stopped) = model::cut_at_stop(&said, &sampling.stop);
        let new = kept.get(before..).unwrap_or_default().to_string();
        let printed = write!(stdout, "{new}").and_then(|()| stdout.flush());
        !stopped && printed.is_ok()
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    let rest = decoder.finish()?;
    writeln!(stdout, "{rest}")?;
    said.push_str(&rest);
    let said = model::cut_at_stop(&said, &sampling.stop).0.trim().to_string();
    conversation.text = format!("{prompt}{said}{END_OF_CHUNK_TOKEN}");
    conversation.images = images;
    conversation.pending.clear();
    Ok(())
}

/// A question cannot smuggle in placeholders that no image belongs to.
fn without_special_tokens(question: &str) -> String {
    ["<image>", ANSWER_TOKEN, END_OF_CHUNK_TOKEN]
        .iter()
        .fold(question.to_string(), |q, token| q.replace(token, ""))
}
