//! Question–answer pairs from the replies of a chat model: `[{"id", "results"}]` as Syphus writes
//! them, or `[{"id", "question", "answer"}]`.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer};

use super::annotations::Annotations;
use crate::sources::error::ImportError;
use crate::sources::item::{Pair, Reason, Skip};

#[derive(Deserialize)]
struct Entry {
    id: Name,
    results: Option<String>,
    #[serde(alias = "instruction")]
    question: Option<String>,
    answer: Option<String>,
}

/// An id, which some files write as a number.
pub struct Name(String);

impl Name {
    /// The id as text.
    pub fn into_text(self) -> String {
        self.0
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Id;

        impl Visitor<'_> for Id {
            type Value = Name;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or a whole number")
            }

            fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                Ok(Name(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Name, E> {
                Ok(Name(number.to_string()))
            }
        }

        deserializer.deserialize_any(Id)
    }
}

/// Pairs by the name of their visual item.
pub struct Replies {
    pairs: HashMap<String, Result<Vec<Pair>, String>>,
    path: String,
}

impl Replies {
    /// Reads a file of replies, a JSON list or one object a line.
    pub fn open(path: &Path) -> Result<Self, ImportError> {
        let entries = Annotations::list_or_lines(path)?;
        let mut pairs: HashMap<String, Result<Vec<Pair>, String>> = HashMap::new();
        for index in 0..entries.len() {
            let wrong = |what: &str| {
                ImportError::Option(format!(
                    "{what}; expected {{\"id\", \"results\"}} or {{\"id\", \"question\", \"answer\"}}"
                ))
            };
            let entry: Entry = entries.parse(index).map_err(|skip| wrong(&skip.message))?;
            let new = match (entry.results, entry.question, entry.answer) {
                (Some(results), None, None) => parse_reply(&results),
                (None, Some(question), Some(answer)) => Ok(vec![Pair::new(question, answer)]),
                _ => {
                    let (place, id) = (entries.place(index), entry.id.into_text());
                    return Err(wrong(&format!("{place} (id {id}): neither form of a reply")));
                }
            };
            match (pairs.entry(entry.id.into_text()).or_insert_with(|| Ok(Vec::new())), new) {
                (Ok(pairs), Ok(new)) => pairs.extend(new),
                (slot, Err(message)) => {
                    *slot = Err(format!("{}: {message}", entries.place(index)));
                }
                (Err(_), Ok(_)) => {}
            }
        }
        Ok(Self { pairs, path: path.display().to_string() })
    }

    /// The pairs about an item.
    pub fn of(&self, name: &str, place: &str) -> Result<Vec<Pair>, Skip> {
        match self.pairs.get(name) {
            Some(Ok(pairs)) => Ok(pairs.clone()),
            Some(Err(message)) => Err(Skip::new(Reason::BadReply, message.clone())),
            None => {
                Err(Skip::new(Reason::NoPairs, format!("{place}: {} has no entry for {name}", self.path)))
            }
        }
    }
}

/// Labels of the two turns.
const QUESTIONS: [&str; 3] = ["Question:", "User:", "Q:"];
const ANSWERS: [&str; 3] = ["Answer:", "Assistant:", "A:"];

/// The pairs of a reply. Text before the first question (headings, reasons) is passed over; lines without a label go on
/// with what was begun, up to a blank line.
pub fn parse_reply(reply: &str) -> Result<Vec<Pair>, String> {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut question: Option<String> = None;
    let mut in_answer = false;
    for line in reply.lines().map(str::trim) {
        let label =
            |labels: [&str; 3]| labels.iter().find_map(|label| line.strip_prefix(label)).map(str::trim);
        if let Some(text) = label(QUESTIONS) {
            if let Some(open) = &question {
                return Err(format!("the question {open:?} of a reply has no answer"));
            }
            question = Some(text.to_owned());
            in_answer = false;
        } else if let Some(text) = label(ANSWERS) {
            let Some(asked) = question.take() else {
                return Err(format!("the answer {text:?} of a reply has no question"));
            };
            pairs.push(Pair::new(asked, text));
            in_answer = true;
        } else if line.is_empty() {
            in_answer = false;
        } else if let Some(open) = &mut question {
            open.push('\n');
            open.push_str(line);
        } else if let (true, Some(pair)) = (in_answer, pairs.last_mut()) {
            pair.answer.push('\n');
            pair.answer.push_str(line);
        }
    }
    match question {
        Some(open) => Err(format!("the question {open:?} at the end of a reply has no answer")),
        None if pairs.is_empty() => Err("a reply holds no `Question:` and `Answer:` lines".to_owned()),
        None => Ok(pairs),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn replies_are_split_into_pairs() {
        let reply = "Conversation 1\nreason: x\n\nQuestion: How many?\nAnswer: Two.\nOr three.\n\nUser: Why?\nAssistant: So.\n\nbye";
        let expected = vec![Pair::new("How many?", "Two.\nOr three."), Pair::new("Why?", "So.")];
        assert_eq!(parse_reply(reply), Ok(expected));
        for bad in ["", "nothing", "Question: a", "Answer: b", "Question: a\nQuestion: b\nAnswer: c"] {
            assert!(parse_reply(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn written_pairs_come_back(pairs in proptest::collection::vec(("[a-z][a-z ?]{0,8}[a-z]", "[a-z][a-z .]{0,8}[a-z]"), 1..6)) {
            let text: Vec<String> = pairs.iter().map(|(q, a)| format!("Question: {q}\nAnswer: {a}\n")).collect();
            let expected: Vec<Pair> = pairs.iter().map(|(q, a)| Pair::new(q.clone(), a.clone())).collect();
            prop_assert_eq!(parse_reply(&text.join("\n")), Ok(expected));
        }
    }
}
