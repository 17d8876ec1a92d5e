//! Writes the toybox as MIMIC-IT files:
//!
//! ```text
//! manifest.json  README.md  tokenizer/…
//! train.yaml  train_no_context.yaml  eval.yaml  eval_<k>shot.yaml
//! train/<CODE>_instructions.json  <CODE>.json  <CODE>_train.json  <CODE>_train_no_context.json
//! eval/<CODE>_instructions.json   <CODE>.json  <CODE>_<k>shot_train.json  <CODE>_truth.json
//! ```
//!
//! The same options give the same bytes, whatever the number of threads.

use std::io::{Cursor, Write};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::ImageEncoder;
use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use otter_io::Progress;
use rand::Rng;
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

use super::dataset::{ContextList, Dataset};
use super::error::ToyboxError;
use super::held_out::{MadeUpWord, concept_pairs};
use super::language::{Family, QuestionKind};
use super::options::ToyboxOptions;
use super::render::render;
use super::seeding::random_stream;
use super::vocabulary::Vocabulary;
use otter_io::AtomicFile;

/// Records whose pictures are drawn at a time; bounds the memory of the pictures.
const RECORDS_AT_ONCE: usize = 2048;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Summary {
    /// Pictures of all sets.
    pub images: usize,
    /// Instruction records of all sets.
    pub instructions: usize,
    /// Queries of all sets.
    pub queries: usize,
    /// Size of the vocabulary, special tokens included.
    pub vocabulary: usize,
    /// The sets in the order of writing.
    pub sets: Vec<SetSummary>,
}

/// One set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetSummary {
    /// `train` or `eval`.
    pub split: String,
    /// Code of the set.
    pub code: String,
    /// Pictures.
    pub images: usize,
    /// Instruction records, examples that are never asked included.
    pub instructions: usize,
    /// Queries.
    pub queries: usize,
    /// Queries by the number of their in-context examples (index 0: none); training only.
    pub queries_by_context: Vec<usize>,
}

/// What an evaluator needs to know about one query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Truth {
    /// Family of the question.
    pub family: Family,
    /// Kind of the question.
    pub kind: QuestionKind,
    /// The right answer.
    pub answer: String,
    /// Answers to score.
    pub candidates: Vec<String>,
    /// Place of the right answer among the candidates.
    pub answer_index: usize,
    /// For which numbers of shots there is a set with this query.
    pub shots: Vec<usize>,
    /// Concepts of the episode, the one asked for first; empty outside binding.
    pub concepts: Vec<String>,
    /// What never occurs in training.
    pub held_out: HeldOut,
}

/// What of a query never occurs in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct HeldOut {
    /// The made-up words.
    pub words: bool,
    /// The pair of concepts.
    pub concept_pair: bool,
}

/// Writes a toybox into `folder`, which is made if needed; files of the same names are replaced.
/// `progress` is called after every portion of pictures; its stage is the file, relative to the folder, counted in records.
pub fn write_toybox(
    folder: &Path,
    options: &ToyboxOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Summary, ToyboxError> {
    options.validate()?;
    for name in ["train", "eval", "tokenizer"] {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).map_err(ToyboxError::write(&path))?;
    }
    let vocabulary = Vocabulary::new();
    vocabulary.write(&folder.join("tokenizer"))?;
    let mut summary = Summary { vocabulary: vocabulary.len(), ..Summary::default() };

    let mut train = MixtureList::default();
    let mut no_context = MixtureList::default();
    for family in Family::ALL.into_iter().filter(|&family| options.train.of(family) > 0) {
        let set = Dataset::train(family, options);
        let mut writer = SetWriter { folder, split: "train", set: &set, options };
        summary.add(writer.write_records(progress)?);
        let list = &set.context_lists[0];
        train.add(&set.code, &set, writer.write_contexts("train", list)?, list);
        if options.no_context_twin {
            let contexts = list.contexts.iter().map(|&(query, _)| (query, Vec::new())).collect();
            let twin = ContextList { shots: None, contexts };
            no_context.add(&set.code, &set, writer.write_contexts("train_no_context", &twin)?, &twin);
        }
    }
    write_text(&folder.join("train.yaml"), &train.yaml("train"))?;
    if options.no_context_twin {
        write_text(&folder.join("train_no_context.yaml"), &no_context.yaml("train"))?;
    }

    let mut evaluations: Vec<MixtureList> =
        options.eval_shots.iter().map(|_| MixtureList::default()).collect();
    for family in Family::ALL.into_iter().filter(|&family| options.eval.of(family) > 0) {
        for set in Dataset::evaluations(family, options) {
            let mut writer = SetWriter { folder, split: "eval", set: &set, options };
            summary.add(writer.write_records(progress)?);
            writer.write_truth()?;
            for (list, mixture) in set.context_lists.iter().zip(&mut evaluations) {
                let shots = list.shots.unwrap_or(0);
                let file = writer.write_contexts(&format!("{shots}shot_train"), list)?;
                mixture.add(&format!("{}_{shots}SHOT", set.code), &set, file, list);
            }
        }
    }
    // One list per number of shots: inside one list equal ids would replace each other.
    for (&shots, mixture) in options.eval_shots.iter().zip(&evaluations) {
        write_text(&folder.join(format!("eval_{shots}shot.yaml")), &mixture.yaml("eval"))?;
        if options.eval_shots.iter().all(|&other| other <= shots) {
            write_text(&folder.join("eval.yaml"), &mixture.yaml("eval"))?;
        }
    }

    let texts = |words: Vec<MadeUpWord>| words.into_iter().map(MadeUpWord::text).collect::<Vec<_>>();
    let pairs = concept_pairs(true).into_iter().map(|(one, other)| json!([one.phrase(), other.phrase()]));
    let manifest = json!({
        "format": "otter-toybox",
        "version": 1,
        "options": options,
        "summary": summary,
        "held_out_words": texts(MadeUpWord::list(true)),
        "held_out_concept_pairs": pairs.collect::<Vec<_>>(),
    });
    write_text(&folder.join("manifest.json"), &format!("{manifest:#}\n"))?;
    write_text(&folder.join("README.md"), &readme(options, &summary))?;
    Ok(summary)
}

impl Summary {
    fn add(&mut self, set: SetSummary) {
        self.images += set.images;
        self.instructions += set.instructions;
        self.queries += set.queries;
        self.sets.push(set);
    }
}

/// Writes the files of one set.
struct SetWriter<'a> {
    folder: &'a Path,
    split: &'static str,
    set: &'a Dataset,
    options: &'a ToyboxOptions,
}

impl SetWriter<'_> {
    fn instruction_id(&self, place: usize) -> String {
        format!("{}_INS_{:06}", self.set.id_prefix, place + 1)
    }

    fn image_ids(&self, place: usize) -> Vec<String> {
        let id = format!("{}_IMG_{:06}", self.set.id_prefix, place + 1);
        match self.set.records[place].example.scenes.len() {
            1 => vec![id],
            count => (1..=count).map(|number| format!("{id}_{number}")).collect(),
        }
    }

    fn file_name(&self, suffix: &str) -> String {
        format!("{}/{}{suffix}.json", self.split, self.set.code)
    }

    /// Writes one JSON object entry by entry; `prefix` and `suffix` enclose it.
    fn write_object(
        &self,
        name: &str,
        [prefix, suffix]: [&str; 2],
        entries: impl Iterator<Item = Result<(String, Value), ToyboxError>>,
    ) -> Result<(), ToyboxError> {
        let path = self.folder.join(name);
        let mut file = AtomicFile::create(&path).map_err(ToyboxError::write(&path))?;
        let mut separator = "\n";
        let mut put = |text: std::fmt::Arguments<'_>| file.write_fmt(text).map_err(ToyboxError::write(&path));
        put(format_args!("{prefix}{{"))?;
        for entry in entries {
            let (key, value) = entry?;
            put(format_args!("{separator}{}: {value}", Value::String(key)))?;
            separator = ",\n";
        }
        put(format_args!("\n}}{suffix}\n"))?;
        file.finish().map_err(ToyboxError::write(&path))
    }

    /// Writes the instruction file and the image file.
    fn write_records(&mut self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<SetSummary, ToyboxError> {
        let records = &self.set.records;
        let meta = json!({"version": "1", "author": "otter toybox", "seed": self.options.seed});
        let entries = records.iter().enumerate().map(|(place, record)| {
            let value = json!({
                "instruction": record.example.question,
                "answer": record.example.answer,
                "image_ids": self.image_ids(place),
                "rel_ins_ids": self.ids(&record.related),
            });
            Ok((self.instruction_id(place), value))
        });
        let prefix = format!("{{\"meta\": {meta}, \"data\": ");
        self.write_object(&self.file_name("_instructions"), [&prefix, "}"], entries)?;

        let name = self.file_name("");
        let mut images = 0;
        let starts = (0..records.len()).step_by(RECORDS_AT_ONCE);
        let entries = starts.flat_map(|start| {
            let end = (start + RECORDS_AT_ONCE).min(records.len());
            let drawn: Vec<_> =
                (start..end).into_par_iter().flat_map_iter(|place| self.draw(place)).collect();
            progress(Progress::of_items(&name, end, records.len()));
            drawn
        });
        let entries = entries.inspect(|_| images += 1);
        self.write_object(&name, ["", ""], entries)?;

        let mut by_context = Vec::new();
        if self.split == "train" {
            for (_, context) in self.set.context_lists.iter().flat_map(|list| &list.contexts) {
                by_context.resize(by_context.len().max(context.len() + 1), 0);
                by_context[context.len()] += 1;
            }
        }
        Ok(SetSummary {
            split: self.split.to_string(),
            code: self.set.code.clone(),
            images,
            instructions: records.len(),
            queries: self.set.queries(),
            queries_by_context: by_context,
        })
    }

    fn ids(&self, places: &[usize]) -> Vec<String> {
        places.iter().map(|&place| self.instruction_id(place)).collect()
    }

    /// The pictures of one record as base64 PNG.
    fn draw(&self, place: usize) -> Vec<Result<(String, Value), ToyboxError>> {
        let scenes = &self.set.records[place].example.scenes;
        let purpose = format!("{} pictures", self.set.id_prefix);
        let mut seeds = random_stream(self.options.seed, &purpose, place as u64);
        let draw = |(scene, id): (_, String)| {
            let picture = render(scene, self.options.image_size, seeds.next_u64());
            let mut png = Cursor::new(Vec::with_capacity(4096));
            PngEncoder::new_with_quality(&mut png, CompressionType::Fast, FilterType::Adaptive)
                .write_image(&picture, picture.width(), picture.height(), image::ExtendedColorType::Rgb8)
                .map_err(|source| ToyboxError::Encode { id: id.clone(), source })?;
            Ok((id, Value::String(STANDARD.encode(png.into_inner()))))
        };
        scenes.iter().zip(self.image_ids(place)).map(draw).collect()
    }

    /// Writes a train file and returns its name.
    fn write_contexts(&mut self, suffix: &str, list: &ContextList) -> Result<String, ToyboxError> {
        let name = self.file_name(&format!("_{suffix}"));
        let entries = list
            .contexts
            .iter()
            .map(|(query, context)| Ok((self.instruction_id(*query), json!(self.ids(context)))));
        self.write_object(&name, ["", ""], entries)?;
        Ok(name)
    }

    /// Writes what an evaluator compares with.
    fn write_truth(&mut self) -> Result<(), ToyboxError> {
        let queries = self.set.context_lists.first().map_or(&[][..], |list| &list.contexts);
        let entries = queries.iter().map(|&(query, _)| {
            let example = &self.set.records[query].example;
            let truth = Truth {
                family: self.set.family,
                kind: example.kind,
                answer: example.answer.clone(),
                candidates: example.candidates.clone(),
                answer_index: example.candidates.iter().position(|c| *c == example.answer).unwrap_or(0),
                shots: self.options.eval_shots.clone(),
                concepts: example.concepts.iter().map(|concept| concept.phrase()).collect(),
                held_out: HeldOut { words: self.set.held_out, concept_pair: self.set.held_out },
            };
            Ok((self.instruction_id(query), json!(truth)))
        });
        self.write_object(&self.file_name("_truth"), ["", ""], entries)
    }
}

/// A data list in the original's YAML form. Sets with in-context examples need a placeholder and a
/// picture for every turn, so they go into the in-context group.
#[derive(Default)]
struct MixtureList {
    image_text: Vec<[String; 3]>,
    in_context: Vec<[String; 3]>,
}

impl MixtureList {
    fn add(&mut self, name: &str, set: &Dataset, train_file: String, list: &ContextList) {
        let entry = [name.to_string(), set.code.clone(), train_file];
        if list.contexts.iter().any(|(_, context)| !context.is_empty()) {
            self.in_context.push(entry);
        } else {
            self.image_text.push(entry);
        }
    }

    fn yaml(&self, split: &str) -> String {
        let mut text = String::from("# Paths are relative to this file.\n");
        for (group, entries) in
            [("IMAGE_TEXT", &self.image_text), ("IMAGE_TEXT_IN_CONTEXT", &self.in_context)]
        {
            if entries.is_empty() {
                continue;
            }
            text += &format!("{group}:\n");
            for [name, code, train_file] in entries {
                text += &format!(
                    "  {name}:\n    mimicit_path: {split}/{code}_instructions.json\n    \
                     images_path: {split}/{code}.json\n    train_config_path: {train_file}\n    num_samples: -1\n"
                );
            }
        }
        if self.image_text.is_empty() && self.in_context.is_empty() {
            text += "{}\n";
        }
        text
    }
}

fn write_text(path: &Path, text: &str) -> Result<(), ToyboxError> {
    otter_io::write_whole(path, text.as_bytes()).map_err(ToyboxError::write(path))
}

fn readme(options: &ToyboxOptions, summary: &Summary) -> String {
    let mut text = format!(
        "# Toybox\n\nA synthetic MIMIC-IT data set, written by `otter toybox` with seed {} at {} pixels.\n\
         `manifest.json` holds all options, counts and what is held out from training.\n\n\
         | split | set | queries | records | images |\n|---|---|---|---|---|\n",
        options.seed, options.image_size
    );
    for set in &summary.sets {
        text += &format!(
            "| {} | {} | {} | {} | {} |\n",
            set.split, set.code, set.queries, set.instructions, set.images
        );
    }
    text += "\n- `train.yaml`: all training queries with their in-context examples; `train_no_context.yaml`: \
             the same queries without.\n\
             - `eval_<k>shot.yaml`: the same evaluation queries with k in-context examples (binding: k of each \
             concept); `eval.yaml` is the one with the most.\n\
             - `eval/<SET>_truth.json`: right answer and candidates of every query.\n\
             - TOYBIND in `eval`: words and pairs of concepts that never occur in training. TOYBIND_SEEN: \
             words and pairs of the training, new pictures.\n\
             - `tokenizer/`: a tokenizer for the whole language.\n";
    text
}
