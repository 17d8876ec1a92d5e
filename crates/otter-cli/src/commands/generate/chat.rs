//! `otter chat`: a conversation about images in the terminal.

use std::io::{BufRead, IsTerminal};
use std::ops::Range;
use std::path::PathBuf;

use anyhow::Result;
use otter_checkpoint::LoadedModel;
use otter_data::prompt::{ANSWER_TOKEN, END_OF_CHUNK_TOKEN};
use otter_model::ModelError;
use otter_model::generate::PromptBatch;

use super::model;
use super::pictures::{self, Pictures};
use super::settings::{Settings, cut_at_stop};
use crate::arguments::Chat;
use crate::output;

/// What was said, as the model sees it.
#[derive(Default)]
struct Conversation {
    text: String,
    images: Vec<PathBuf>,
    /// The media items that they are.
    media: Vec<Range<usize>>,
    pending: Vec<PathBuf>,
}

/// Runs the conversation until end of input or `/quit`.
pub fn run(arguments: &Chat) -> Result<()> {
    let model = model::load(&arguments.model)?;
    model::warn_before_chat(&arguments.model.path)?;
    let settings = Settings::new(&model, &arguments.model.path, &arguments.sampling, None)?;
    let interactive = std::io::stdin().is_terminal();
    let mut pictures = Pictures::new(&model, arguments.rules);
    let mut conversation = Conversation::default();
    for image in &arguments.images {
        add_image(&mut conversation, &mut pictures, image.clone());
    }
    if interactive {
        eprintln!("/image FILE shows an image with the next question, /reset forgets, /quit ends.");
    }
    let stdin = std::io::stdin();
    let mut bytes = Vec::new();
    loop {
        if interactive {
            eprint!("you> ");
        }
        bytes.clear();
        if stdin.lock().read_until(b'\n', &mut bytes)? == 0 {
            return Ok(());
        }
        // Bytes of another encoding become U+FFFD: a strange character must not end the conversation.
        let line = String::from_utf8_lossy(&bytes);
        let text = line.trim();
        match text.split_once(char::is_whitespace).unwrap_or((text, "")) {
            ("", _) => {}
            ("/quit" | "/exit", _) => return Ok(()),
            ("/reset", _) => conversation = Conversation::default(),
            ("/image", "") => eprintln!("/image needs a file name"),
            ("/image", file) => add_image(&mut conversation, &mut pictures, PathBuf::from(file.trim())),
            (command, _) if command.starts_with('/') => {
                eprintln!("unknown command {command}; there are /image FILE, /reset and /quit");
            }
            _ => match answer(&model, &mut conversation, &mut pictures, text, &settings) {
                Err(error) if error.is::<output::Closed>() => return Err(error),
                // Of such a model there will be no better answer.
                Err(error) if matches!(error.downcast_ref(), Some(ModelError::NotFinite { .. })) => {
                    return Err(error);
                }
                Err(error) => eprintln!("error: {}", output::chain(&error)),
                Ok(()) => {}
            },
        }
    }
}

/// Checks that the image opens, so that a wrong name is reported at once.
fn add_image(conversation: &mut Conversation, pictures: &mut Pictures, file: PathBuf) {
    match pictures.load(&file) {
        Ok(image) => {
            pictures::warn(&pictures.take_counts());
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
    pictures: &mut Pictures,
    question: &str,
    settings: &Settings,
) -> Result<()> {
    let mut images = conversation.images.clone();
    images.extend(conversation.pending.iter().cloned());
    let question = without_special_tokens(question);
    let new = model::media_of_question(model, conversation.pending.len());
    let turn = model::chat_prompt(&question, new.len());
    let prompt = format!("{}{turn}", conversation.text);
    let ids = model::prompt_ids(model, &prompt)?;
    let before = conversation.images.len();
    let mut media = conversation.media.clone();
    media.extend(new.into_iter().map(|item| before + item.start..before + item.end));
    let vision = match images.is_empty() {
        true => None,
        false => Some(model::vision_of(model, &images, media.clone(), pictures)?),
    };
    let prompts = [ids];
    let batch = PromptBatch::new(&prompts, 0, model.tokenizer.special().image)?;
    let (options, _) = settings.for_prompts(model, &prompts)?;
    let stop = &settings.stop;
    let mut decoder = model.tokenizer.stream_decoder(true);
    let mut said = String::new();
    let mut failure = None;
    model.otter.generate(&model.parameters, vision.as_ref(), &batch, &options, &mut |_, id| {
        // A token that ends an answer is none of its text, though it may be an ordinary one.
        if options.stop_tokens.contains(&id) {
            return true;
        }
        let piece = match decoder.push(id) {
            Ok(piece) => piece,
            Err(error) => {
                failure = Some(anyhow::Error::from(error));
                return false;
            }
        };
        let before = said.len();
        said.push_str(&piece);
        let (kept, stopped) = cut_at_stop(&said, stop);
        let new = kept.get(before..).unwrap_or_default().to_string();
        failure = output::part(&new).err();
        !stopped && failure.is_none()
    })?;
    if let Some(error) = failure {
        return Err(error);
    }
    let rest = decoder.finish()?;
    let stopped = cut_at_stop(&said, stop).1;
    output::text(if stopped { "" } else { &rest })?;
    said.push_str(&rest);
    // The answer can spell a placeholder in ordinary tokens; read again as text it would ask for an image.
    let said = without_special_tokens(cut_at_stop(&said, stop).0.trim());
    conversation.text = format!("{prompt}{said}{END_OF_CHUNK_TOKEN}");
    (conversation.images, conversation.media) = (images, media);
    conversation.pending.clear();
    Ok(())
}

/// Neither a question nor an answer can smuggle in placeholders that no image belongs to.
fn without_special_tokens(text: &str) -> String {
    let mut text = text.to_string();
    // Again until nothing changes: removing one can put another together.
    loop {
        let before = text.len();
        for token in ["<image>", ANSWER_TOKEN, END_OF_CHUNK_TOKEN] {
            text = text.replace(token, "");
        }
        if text.len() == before {
            return text;
        }
    }
}
