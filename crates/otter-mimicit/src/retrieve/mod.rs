//! Picking in-context examples: the three heuristics of MIMIC-IT (arXiv 2305.03726), random
//! ones to compare with, and RICES for queries at inference.
//!
//! ```text
//! instructions ─► Records ─► items: distinct texts or pictures ─► Encoder ─► embeddings.f16 ─► Index ─► neighbors.bin
//!                    └──────────────────────────────── Rules ◄─────────────────────────────────────────────┘
//!                                                        └─► train file {id: [ids]}
//! ```
//!
//! Only distinct items are embedded and searched. Everything is determined by the input, the options and the seed.
//!
//! Reading order: `run.rs`, `options.rs` the whole · `select/` what may be picked, and two heuristics · `encode/` items as
//! `vectors.rs` · `search/` the nearest of them · `work.rs`, `row_file.rs` what is kept for a resumed run · `rices.rs`.

mod encode;
mod error;
mod hash;
mod options;
mod rices;
mod row_file;
mod run;
mod search;
mod select;
mod vectors;
mod work;

pub use encode::image_encoder::{ImageEncoder, ImagePooling};
pub use encode::precomputed::Precomputed;
pub use encode::sentence_encoder::SentenceEncoder;
pub use encode::tfidf::{DEFAULT_WIDTH as TFIDF_WIDTH, TfIdf};
pub use error::{Result, RetrieveError};
pub use options::{
    EmbeddingSource, ExampleOrder, Heuristic, Observer, RetrieveOptions, RetrieveReport, Stage,
};
pub use rices::Rices;
pub use run::{MOST_EXAMPLES, retrieve};
pub use search::exact::search as search_exactly;
pub use search::ivf::{DEFAULT_PROBES, Ivf, IvfOptions, MOST_LISTS};
pub use search::plan::{Cost, EXACT_PRODUCTS, IndexKind, SearchPlan};
pub use search::top_k::{Neighbor, TopK};
pub use select::rules::TurnedAway;
pub use select::scene::frame_of;
pub use vectors::{Vectors, normalize_rows, to_f16_bytes};
