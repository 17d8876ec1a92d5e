//! What is asked of a run, and what it tells.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::retrieve::encode::image_encoder::ImagePooling;
use crate::retrieve::search::plan::{IndexKind, SearchPlan};
use crate::retrieve::select::rules::TurnedAway;

/// Where vectors come from.
#[derive(Clone, Debug)]
pub enum EmbeddingSource {
    /// Words and letters of the texts themselves, in vectors of this length.
    TfIdf {
        /// Length of a vector.
        width: usize,
    },
    /// A sentence-transformers checkpoint directory.
    SentenceTransformer(PathBuf),
    /// The vision tower of an Otter checkpoint directory.
    Tower {
        /// The directory.
        model: PathBuf,
        /// How a picture becomes one vector.
        pooling: ImagePooling,
    },
    /// Made elsewhere: instruction ids for texts, image ids for pictures.
    Precomputed {
        /// The matrix, `.npy` or `.safetensors`.
        matrix: PathBuf,
        /// The ids of its rows.
        ids: PathBuf,
    },
}

/// How examples are picked.
#[derive(Clone, Debug)]
pub enum Heuristic {
    /// By similarity of the instructions ("T2T").
    Text(EmbeddingSource),
    /// By similarity of the pictures ("I2I"): of the first picture of each record.
    Image(EmbeddingSource),
    /// From the same scene, video, album or conversation.
    Scene,
    /// At random.
    Random,
}

/// Where the most similar example stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExampleOrder {
    /// Right before the query; the stream drops the first examples where a sample is too long.
    NearestLast,
    /// First, as in a list of search results.
    NearestFirst,
}

/// The options of a run.
#[derive(Clone, Debug)]
pub struct RetrieveOptions {
    /// How examples are picked.
    pub heuristic: Heuristic,
    /// Examples of a query.
    pub k: usize,
    /// The train file that is written.
    pub out: PathBuf,
    /// Folder of what an interrupted run leaves (default: beside `out`, with `.work` behind its name).
    pub work: Option<PathBuf>,
    /// Whether that folder stays when the run is done, so that another run with other rules need not embed again.
    pub keep_work: bool,
    /// A train file whose ids are the queries (default: all records). Any record may be an example.
    pub queries: Option<PathBuf>,
    /// Image tables, for pictures.
    pub images: Vec<PathBuf>,
    /// The index to use (default: by size).
    pub index: Option<IndexKind>,
    /// Lists of the approximate index (default: by size).
    pub lists: Option<usize>,
    /// Lists that a query looks into (default: 64).
    pub probes: Option<usize>,
    /// Whether an example may show an image of the query. Always so with [`Heuristic::Scene`].
    pub allow_same_image: bool,
    /// Most examples with the same instruction, for texts (default: any number).
    pub per_instruction: Option<usize>,
    /// Where the most similar example stands.
    pub order: ExampleOrder,
    /// Seed of everything random.
    pub seed: u64,
}

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Reading records.
    Read,
    /// Making vectors.
    Embed,
    /// Building the approximate index; counted in thousandths.
    Index,
    /// Searching neighbors.
    Search,
    /// Picking examples and writing them.
    Pick,
}

/// Is told how a run goes.
pub trait Observer {
    /// What the search will cost, before it begins.
    fn plan(&mut self, plan: &SearchPlan);
    /// How much of a stage is done. `false` stops the run; it can be resumed.
    fn progress(&mut self, stage: Stage, done: u64, total: u64) -> bool;
}

/// What a run did.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct RetrieveReport {
    /// Records of the set.
    pub records: u64,
    /// Distinct texts or pictures among them.
    pub items: u64,
    /// Queries asked for.
    pub queries: u64,
    /// Queries in the file that was written.
    pub written: u64,
    /// Of those, with as many examples as asked for.
    pub full: u64,
    /// With fewer, but some.
    pub fewer: u64,
    /// With none.
    pub none: u64,
    /// Records that can be neither query nor example, by reason.
    pub unusable: BTreeMap<&'static str, u64>,
    /// Ids of the queries file that the set does not have; they are not written.
    pub unknown_queries: u64,
    /// An id for each of these reasons, `unknown_query` among them.
    pub examples: BTreeMap<&'static str, String>,
    /// Records marked as examples in the context of others: they are examples, and without a queries file no queries.
    pub example_only: u64,
    /// Candidates that a rule turned away.
    pub turned_away: TurnedAway,
    /// Queries whose nearest neighbors were not enough, so that more were searched.
    pub searched_deeper: u64,
    /// Mean cosine similarity of the examples picked by similarity.
    pub mean_similarity: Option<f64>,
    /// The index that was used.
    pub index: Option<IndexKind>,
    /// Seconds of each stage.
    pub seconds: BTreeMap<&'static str, f64>,
}

impl RetrieveReport {
    /// What was left out: a line a reason, with an example.
    pub fn left_out(&self) -> Vec<String> {
        let unknown = Some((&"unknown_query", &self.unknown_queries)).filter(|(_, count)| **count > 0);
        let in_words = |(reason, count): (&&'static str, &u64)| {
            let example = self.examples.get(reason).map(|id| format!(", e.g. {id}")).unwrap_or_default();
            format!("{count} [{reason}]{example}")
        };
        self.unusable.iter().chain(unknown).map(in_words).collect()
    }
}
