//! Truth files of an evaluation set, and their match with the samples of a data set.
//!
//! A truth file `<SET>_truth.json` is an object: query id to family, kind of question, right answer, candidates, the
//! numbers of in-context examples it is asked with, concepts and what of it is held out from training. The same query
//! is a sample of one data set per number of examples. Truth and samples must have the same ids: a query that is
//! silently left out would change the measured accuracy.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::{Path, PathBuf};

use otter_data::{Dataset, foreign_encoding, without_byte_order_mark};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::EvaluationError;

/// How the name of a truth file ends.
pub const TRUTH_SUFFIX: &str = "_truth.json";

/// Largest truth file read.
const LARGEST_TRUTH_FILE: u64 = 1 << 30;

/// What is known about one query.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TruthRecord {
    /// Task family, for example `binding`.
    pub family: String,
    /// Kind of question inside the family; `colour` of older files is `color`.
    #[serde(deserialize_with = "american_kind")]
    pub kind: String,
    /// The right answer, one of the candidates.
    pub answer: String,
    /// Answers that are scored against each other.
    pub candidates: Vec<String>,
    /// Place of the answer among the candidates.
    pub answer_index: usize,
    /// Numbers of in-context examples (of each concept, for binding) for which there is a sample.
    pub shots: Vec<usize>,
    /// What the query is about; not used for scoring.
    #[serde(default)]
    pub concepts: Vec<String>,
    /// What never occurs in training.
    #[serde(default)]
    pub held_out: HeldOut,
}

/// Kinds were spelled `colour_of_shape` once; as rows of a table they are those of today.
fn american_kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(String::deserialize(deserializer)?.replace("colour", "color"))
}

/// What of a query never occurs in training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeldOut {
    /// Its made-up words.
    pub words: bool,
    /// Its pair of concepts.
    pub concept_pair: bool,
}

impl HeldOut {
    /// Whether anything is held out.
    pub fn any(self) -> bool {
        self.words || self.concept_pair
    }
}

/// The truth of an evaluation set.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    records: BTreeMap<String, TruthRecord>,
    /// Position in `files` for each id.
    origin: HashMap<String, usize>,
    files: Vec<PathBuf>,
}

/// One query to evaluate: a sample of the data set and its truth.
#[derive(Clone, Debug)]
pub struct Task<'a> {
    /// Query id.
    pub id: String,
    /// Position in the data set.
    pub index: usize,
    /// In-context examples of the data set.
    pub shots: usize,
    /// Its truth.
    pub truth: &'a TruthRecord,
}

impl Truth {
    /// Reads truth files.
    ///
    /// # Errors
    /// A file that cannot be read, is not the expected JSON, or repeats an id; an answer that is no candidate.
    pub fn read(files: &[PathBuf]) -> Result<Self, EvaluationError> {
        let mut truth = Self::default();
        for path in files {
            truth.add(path)?;
        }
        Ok(truth)
    }

    /// Reads all truth files of a folder.
    ///
    /// # Errors
    /// As [`Truth::read`], and a folder without truth files.
    pub fn read_folder(folder: &Path) -> Result<Self, EvaluationError> {
        let read = |source| EvaluationError::Read { path: folder.to_path_buf(), source };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(TRUTH_SUFFIX)) {
                files.push(path);
            }
        }
        if files.is_empty() {
            return Err(EvaluationError::NoTruth { folder: folder.to_path_buf(), suffix: TRUTH_SUFFIX });
        }
        files.sort();
        Self::read(&files)
    }

    fn add(&mut self, path: &Path) -> Result<(), EvaluationError> {
        let read = |source| EvaluationError::Read { path: path.to_path_buf(), source };
        let format = |message: String| EvaluationError::TruthFormat { path: path.to_path_buf(), message };
        let length = std::fs::metadata(path).map_err(read)?.len();
        if length > LARGEST_TRUTH_FILE {
            return Err(format(format!("the file has {length} bytes, more than {LARGEST_TRUTH_FILE}")));
        }
        let bytes = std::fs::read(path).map_err(read)?;
        if let Some(fault) = foreign_encoding(&bytes) {
            return Err(format(fault.to_owned()));
        }
        let entries: Entries = serde_json::from_slice(without_byte_order_mark(&bytes))
            .map_err(|error| format(error.to_string()))?;
        let file = self.files.len();
        self.files.push(path.to_path_buf());
        for (id, value) in entries.0 {
            let entry =
                |message| EvaluationError::TruthEntry { path: path.to_path_buf(), id: id.clone(), message };
            let record = TruthRecord::deserialize(value)
                .map_err(|error| entry(format!("{error}; make the data set again with this version")))?;
            record.check().map_err(entry)?;
            if let Some(&other) = self.origin.get(&id) {
                let other = self.files[other].display();
                return Err(entry(format!("the id is already in {other}; ids must be unique, remove one")));
            }
            self.origin.insert(id.clone(), file);
            self.records.insert(id, record);
        }
        Ok(())
    }

    /// Truth of a query.
    pub fn get(&self, id: &str) -> Option<&TruthRecord> {
        self.records.get(id)
    }

    /// All queries by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TruthRecord)> {
        self.records.iter().map(|(id, record)| (id.as_str(), record))
    }

    /// Number of queries.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is no query.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Pairs every sample of the data set for `shots` in-context examples with its truth, in the order of the data set.
    ///
    /// # Errors
    /// A sample without truth for this number of examples, a query without sample, or an id that is a sample twice.
    pub fn tasks(&self, dataset: &Dataset, shots: usize) -> Result<Vec<Task<'_>>, EvaluationError> {
        let ids = (0..dataset.len()).map(|index| dataset.sample_id(index)).collect::<Result<Vec<_>, _>>()?;
        self.match_ids(ids, shots)
    }

    fn match_ids(&self, ids: Vec<String>, shots: usize) -> Result<Vec<Task<'_>>, EvaluationError> {
        let expected = |id: &String| self.records.get(id).is_some_and(|record| record.shots.contains(&shots));
        let without_truth: Vec<&String> = ids.iter().filter(|id| !expected(id)).collect();
        if let Some(id) = without_truth.first() {
            let (count, id, files) = (without_truth.len(), (*id).clone(), self.files.len());
            return Err(EvaluationError::WithoutTruth { count, id, shots, files });
        }
        let mut position: HashMap<&str, usize> = HashMap::with_capacity(ids.len());
        for (index, id) in ids.iter().enumerate() {
            if let Some(first) = position.insert(id, index) {
                let message = format!(
                    "it is a sample twice, at {first} and {index}; list its set once and leave `num_samples` at 0"
                );
                return Err(EvaluationError::Sample { id: id.clone(), message });
            }
        }
        let without_sample: Vec<&String> =
            self.records.keys().filter(|id| expected(id) && !position.contains_key(id.as_str())).collect();
        if let Some(&id) = without_sample.first() {
            let path = self.origin.get(id).map(|&file| self.files[file].clone()).unwrap_or_default();
            let (count, id) = (without_sample.len(), id.clone());
            return Err(EvaluationError::WithoutSample { count, id, shots, path });
        }
        let tasks = ids.into_iter().enumerate().filter_map(|(index, id)| {
            let truth = self.records.get(&id)?;
            Some(Task { id, index, shots, truth })
        });
        Ok(tasks.collect())
    }
}

impl TruthRecord {
    fn check(&self) -> Result<(), String> {
        if self.candidates.len() < 2 {
            return Err(format!("it has {} candidates, expected at least 2", self.candidates.len()));
        }
        if let Some(empty) = self.candidates.iter().position(|candidate| candidate.trim().is_empty()) {
            return Err(format!("candidate {empty} is empty; every candidate needs text"));
        }
        let mut sorted: Vec<&String> = self.candidates.iter().collect();
        sorted.sort();
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("candidate '{}' is listed twice; candidates must differ", pair[0]));
        }
        if !self.candidates.contains(&self.answer) {
            let candidates = self.candidates.join("', '");
            return Err(format!("the answer '{}' is not among the candidates '{candidates}'", self.answer));
        }
        match self.candidates.get(self.answer_index) {
            Some(candidate) if *candidate == self.answer => {}
            found => {
                return Err(format!(
                    "answer_index {} names {}, but the answer is '{}'; make the two agree",
                    self.answer_index,
                    found.map_or("no candidate".to_owned(), |candidate| format!("'{candidate}'")),
                    self.answer
                ));
            }
        }
        if self.shots.is_empty() {
            return Err(
                "its list of shots is empty; list the numbers of in-context examples it is asked with".into(),
            );
        }
        Ok(())
    }
}

/// The entries of an object in file order; a repeated key is an error.
struct Entries(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of query ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries: Vec<(String, serde_json::Value)> = Vec::new();
                let mut seen = std::collections::HashSet::new();
                while let Some((id, value)) = map.next_entry::<String, serde_json::Value>()? {
                    if !seen.insert(id.clone()) {
                        return Err(serde::de::Error::custom(format!("query '{id}' is listed twice")));
                    }
                    entries.push((id, value));
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(EntriesVisitor)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"a":{"family":"binding","kind":"bound_word","answer":"wugpim",
        "candidates":["wugpim","daxlo"],"answer_index":0,"shots":[0,2],"concepts":["red ring"],
        "held_out":{"words":true,"concept_pair":false}},
        "b":{"family":"counting","kind":"count_all","answer":"two","candidates":["one","two"],"answer_index":1,
        "shots":[0]}}"#;

    fn read(name: &str, text: &str) -> Result<Truth, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Truth::read(&[path]).map_err(|error| error.to_string())
    }

    #[test]
    fn a_good_file_is_read_whole() {
        let truth = read("X_truth.json", GOOD).unwrap();
        assert_eq!(truth.len(), 2);
        assert!(truth.get("a").unwrap().held_out.any() && !truth.get("b").unwrap().held_out.any());
        let tasks = truth.match_ids(vec!["b".into(), "a".into()], 0).unwrap();
        assert_eq!(tasks.iter().map(|t| (t.id.as_str(), t.index)).collect::<Vec<_>>(), [("b", 0), ("a", 1)]);
        // Query b is not asked with two examples.
        assert_eq!(truth.match_ids(vec!["a".into()], 2).unwrap().len(), 1);
    }

    #[test]
    fn kinds_are_also_read_as_they_were_spelled_at_first() {
        let truth = read("X_truth.json", &GOOD.replace("bound_word", "count_colour")).unwrap();
        assert_eq!(truth.get("a").unwrap().kind, "count_color");
        assert_eq!(truth.get("b").unwrap().kind, "count_all");
    }

    #[test]
    fn another_encoding_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("X_truth.json");
        let wide: Vec<u8> = GOOD.encode_utf16().flat_map(u16::to_le_bytes).collect();
        std::fs::write(&path, wide).unwrap();
        let error = Truth::read(&[path]).map_err(|error| error.to_string()).unwrap_err();
        assert!(error.contains("X_truth.json") && error.contains("save it as UTF-8"), "{error}");
    }

    #[test]
    fn errors_name_file_and_key() {
        let cases = [
            ("[]", "an object of query ids"),
            ("{", "X_truth.json"),
            (&GOOD.replace("\"b\"", "\"a\""), "query 'a' is listed twice"),
            (&GOOD.replace("\"shots\":[0]", "\"shots\":[-1]"), "query 'b': invalid value"),
            (&GOOD.replace("\"shots\":[0]", "\"shots\":[]"), "query 'b': its list of shots is empty"),
            (&GOOD.replace("\"shots\":[0]", "\"shot\":0"), "query 'b': unknown field `shot`"),
            (&GOOD.replace("\"answer_index\":1,", ""), "query 'b': missing field `answer_index`"),
            (&GOOD.replace("\"answer_index\":1,", "\"answer_index\":0,"), "answer_index 0 names 'one'"),
            (
                &GOOD.replace("\"answer_index\":1,", "\"answer_index\":7,"),
                "answer_index 7 names no candidate",
            ),
            (&GOOD.replace("\"answer\":\"two\"", "\"answer\":\"six\""), "the answer 'six' is not among"),
            (&GOOD.replace("[\"one\",\"two\"]", "[\"two\"]"), "query 'b': it has 1 candidates"),
            (&GOOD.replace("[\"one\",\"two\"]", "[\"two\",\"two\"]"), "candidate 'two' is listed twice"),
            (&GOOD.replace("[\"one\",\"two\"]", "[\" \",\"two\"]"), "candidate 0 is empty"),
        ];
        for (text, expected) in cases {
            let error = read("X_truth.json", text).unwrap_err();
            assert!(error.contains(expected) && error.contains("X_truth.json"), "{error}");
        }
    }

    #[test]
    fn ids_must_match_both_ways() {
        let truth = read("X_truth.json", GOOD).unwrap();
        let error = |ids: &[&str]| {
            truth.match_ids(ids.iter().map(|id| (*id).to_string()).collect(), 0).unwrap_err().to_string()
        };
        let found = error(&["a"]);
        assert!(
            found.contains("1 queries") && found.contains("'b'") && found.contains("X_truth.json"),
            "{found}"
        );
        let found = error(&["a", "b", "c", "d"]);
        assert!(found.contains("2 samples have no truth") && found.contains("'c'"), "{found}");
        let found = error(&["a", "b", "a"]);
        assert!(found.contains("'a'") && found.contains("at 0 and 2"), "{found}");
    }

    #[test]
    fn an_id_of_two_files_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["A_truth.json", "B_truth.json"] {
            std::fs::write(folder.path().join(name), GOOD).unwrap();
        }
        std::fs::write(folder.path().join("other.json"), "not read").unwrap();
        let error = Truth::read_folder(folder.path()).unwrap_err().to_string();
        assert!(error.contains("B_truth.json: query 'a'") && error.contains("A_truth.json"), "{error}");
        let empty = tempfile::tempdir().unwrap();
        assert!(Truth::read_folder(empty.path()).unwrap_err().to_string().contains("_truth.json"));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_refused_without_panic(text in ".{0,80}") {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("X_truth.json");
            std::fs::write(&path, &text).unwrap();
            let result = Truth::read(&[path]);
            let empty = text.trim() == "{}";
            proptest::prop_assert!(result.is_err() || empty);
        }
    }
}
