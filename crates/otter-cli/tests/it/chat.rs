//! `otter chat` with its questions on a pipe.

use std::path::{Path, PathBuf};

use crate::common::{CheckpointCopy, Run, golden, otter, otter_with_input};
use serde_json::json;

thread_local! {
    /// The random golden model would say bytes that are no text; without them its answers can be read back. One for
    /// each test, removed at its end.
    static MODEL: CheckpointCopy = CheckpointCopy::new("llama/checkpoint", |tensors| {
        let (_, shape, table) = tensors.iter_mut().find(|(name, _, _)| name.ends_with("lm_head.weight")).unwrap();
        table[..BYTE_TOKENS * shape[1]].fill(0.0);
    });
}

fn model() -> PathBuf {
    MODEL.with(|model| model.path().to_owned())
}

/// Ids of the control and byte tokens: a logit of zero is never the largest of so many.
const BYTE_TOKENS: usize = 259;

const LIMITS: [&str; 4] = ["--max-new-tokens", "12", "--min-new-tokens", "2"];

fn chat(lines: &str, more: &[&str]) -> Run {
    chat_bytes(&model(), lines.as_bytes(), more)
}

fn chat_bytes(model: &Path, lines: &[u8], more: &[&str]) -> Run {
    let mut arguments = arguments!["chat", "--model", model].to_vec();
    arguments.extend(LIMITS.iter().chain(more).map(Into::into));
    otter_with_input(&arguments, lines).success()
}

fn image(name: &str) -> String {
    golden("images").join(name).to_str().unwrap().to_owned()
}

fn answers(run: &Run) -> Vec<&str> {
    run.stdout.lines().collect()
}

/// What `generate` says to a prompt.
fn generated(prompt: &str, images: &[&str]) -> String {
    let mut arguments = arguments!["generate", "--model", model(), "--prompt", prompt].to_vec();
    arguments.extend(LIMITS.map(Into::into));
    arguments.extend(images.iter().flat_map(|name| ["--image".into(), image(name).into()]));
    otter(&arguments).success().stdout.trim().to_owned()
}

/// The transcript that the model sees is the original's template, with each image in front of its question.
#[test]
fn turns_build_the_template() {
    let (boat, gray) = (image("wide.png"), image("grey.png"));
    let run = chat(&format!("/image {boat}\nWhat is it?\n/image {gray}\nAnd this?\nSure?\n"), &[]);
    let said = answers(&run);
    assert_eq!(said.len(), 3, "{run:#?}");
    let first = "<image>User:What is it? GPT:<answer>";
    assert_eq!(said[0].trim(), generated(first, &["wide.png"]));
    let second = format!("{first}{}<|endofchunk|><image>User:And this? GPT:<answer>", said[0].trim());
    assert_eq!(said[1].trim(), generated(&second, &["wide.png", "grey.png"]));
    let third = format!("{second}{}<|endofchunk|>User:Sure? GPT:<answer>", said[1].trim());
    assert_eq!(said[2].trim(), generated(&third, &["wide.png", "grey.png"]));
    assert!(run.stderr.contains("120 x 80"), "{}", run.stderr);
}

/// Several images of one question are what the model's records with several images were in training.
#[test]
fn several_images_of_a_question_are_shown_as_in_training() {
    let copy = CheckpointCopy::new("llama/checkpoint", |_| {});
    let both = [image("wide.png"), image("grey.png")];
    let ask = |rule: Option<&str>, command: &str, prompt: &[&str]| {
        copy.edit_json("config.json", |config| config["otter_input"] = json!({ "images_of_record": rule }));
        let mut arguments = arguments![command, "--model", copy.path()].to_vec();
        arguments.extend(
            ["--image", &both[0], "--image", &both[1]].iter().chain(&LIMITS).chain(prompt).map(Into::into),
        );
        otter_with_input(&arguments, b"What is it?\nAnd now?\n")
    };
    let written = |rule, prompt| ask(rule, "generate", &["--prompt", prompt]);
    let framed = written(Some("frames"), "<image>User:What is it? GPT:<answer>").success().stdout;
    let separate = written(None, "<image><image>User:What is it? GPT:<answer>").success().stdout;
    assert_ne!(framed, separate);
    written(Some("media"), "<image>User:What is it? GPT:<answer>")
        .error(&["1 <image> placeholder,", "2 images"]);
    for (rule, expected) in [(Some("frames"), &framed), (Some("media"), &separate), (None, &separate)] {
        let asked = ask(rule, "generate", &["--prompt", "What is it?", "--chat"]).success();
        assert_eq!(asked.stdout, *expected, "{rule:?}");
        let said = ask(rule, "chat", &[]).success();
        assert_eq!(answers(&said).len(), 2, "{said:?}");
        assert_eq!(answers(&said)[0].trim(), expected.trim(), "{rule:?}");
    }
    ask(Some("both"), "generate", &["--prompt", "a"])
        .error(&["otter_input.images_of_record", "frames or media"]);
}

#[test]
fn reset_forgets_text_and_images() {
    let boat = image("wide.png");
    let run = chat(
        &format!("/image {boat}\nWhat is it?\n/reset\nWhat is it?\n/reset\n/image {boat}\nWhat is it?\n"),
        &[],
    );
    let said = answers(&run);
    assert_eq!(said.len(), 3, "{run:#?}");
    assert_eq!(said[0], said[2]);
    assert_eq!(said[1].trim(), generated("User:What is it? GPT:<answer>", &[]));
    // An image that was not yet shown is forgotten too.
    let pending = chat(&format!("/image {boat}\n/reset\nWhat is it?\n"), &[]);
    assert_eq!(answers(&pending), [said[1]]);
}

#[test]
fn images_may_be_given_on_the_command_line() {
    let boat = image("wide.png");
    let run = chat("What is it?\n", &["--image", &boat]);
    assert_eq!(run.stdout, chat(&format!("/image   {boat}  \nWhat is it?\n"), &[]).stdout);
}

#[test]
fn mistakes_do_not_end_the_conversation() {
    let boat = image("wide.png");
    let text = golden("llama/trainable.txt");
    let lines = format!(
        "/image /no/such/cat.png\n/image {}\n/image\n/imagine x\n/image {boat}\nWhat is it?\n",
        text.display()
    );
    let run = chat(&lines, &[]);
    assert_eq!(answers(&run), answers(&chat("What is it?\n", &["--image", &boat])));
    for part in
        ["/no/such/cat.png", "trainable.txt", "needs a file name", "unknown command /imagine", "/reset"]
    {
        assert!(run.stderr.contains(part), "no '{part}' in {}", run.stderr);
    }
}

#[test]
fn the_end_of_input_and_quit_end_it() {
    assert_eq!(chat("", &[]).stdout, "");
    assert_eq!(chat("\n  \n", &[]).stdout, "");
    assert_eq!(chat("/quit\nWhat is it?\n", &[]).stdout, "");
    // Without a line break at the end the last question still counts.
    assert_eq!(answers(&chat("What is it?", &[])).len(), 1);
}

/// What a random model says, whatever its bytes, never breaks the next turn.
#[test]
fn any_answer_can_be_followed_by_a_question() {
    let run = chat_bytes(&golden("llama/checkpoint"), "What is it?\nAnd this?\nSure?\n".as_bytes(), &[]);
    assert!(!run.stderr.contains("error"), "{}", run.stderr);
}

/// Placeholders in a question are text of a person, not images.
#[test]
fn a_question_cannot_smuggle_in_placeholders() {
    let run = chat("What <ima<image>ge> is<answer> it?<|endofchunk|>\nWhat is it?\n", &[]);
    assert_eq!(answers(&run).len(), 2, "{run:#?}");
    assert!(!run.stderr.contains("error"), "{}", run.stderr);
    assert_eq!(answers(&run)[0].trim(), generated("User:What  is it? GPT:<answer>", &[]));
}

#[test]
fn bytes_that_are_no_text_do_not_end_the_conversation() {
    let run = chat_bytes(&model(), b"caf\xe9?\nWhat is it?\n", &[]);
    assert_eq!(answers(&run).len(), 2, "{run:#?}");
}

#[test]
fn the_answer_is_streamed_without_its_stop_text() {
    let boat = image("wide.png");
    let line = "What is the color of the boat?\n";
    let whole = chat(line, &["--image", &boat]);
    let said = answers(&whole)[0].trim().to_owned();
    let middle: Vec<char> = said.chars().filter(|c| c.is_ascii_alphabetic()).collect();
    let stop = middle[middle.len() / 2].to_string();
    let cut = chat(line, &["--image", &boat, "--stop", &stop]);
    assert_eq!(answers(&cut)[0].trim_end(), said.split(&stop).next().unwrap().trim_end());
}
