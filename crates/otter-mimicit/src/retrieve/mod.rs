//! Picking in-context examples: the three heuristics of MIMIC-IT (data specification, section 4; arXiv 2305.03726), random
//! ones to compare with, and RICES for queries at inference.
//!
//! ```text
//! instructions ─► Records ─► items: distinct texts or pictures ─► Encoder ─► embeddings.f16 ─► Index ─► neighbours.bin
//!                    └──────────────────────────────── Rules ◄─────────────────────────────────────────────┘
//!                                                        └─► train file {id: [ids]}
//! ```
//!
//! Only distinct items are embedded and searched. Everything is determined by the input, the options and the seed.
//!
//! Reading order: `run.rs`, `options.rs` the whole · `records.rs`, `rules.rs` what may be picked · `scene.rs`, `random.rs`
//! two heuristics · `embed.rs` and its encoders `tfidf.rs`, `sentence_encoder.rs` (`bert.rs`, `bert_config.rs`),
//! `image_encoder.rs`, `precomputed.rs` · `neighbours.rs` and its indices `exact.rs`, `ivf.rs` (`top_k.rs`, `vectors.rs`),
//! `plan.rs` · `work.rs`, `row_file.rs` what is kept for a resumed run · `rices.rs`.

mod bert;
mod bert_config;
mod embed;
mod error;
mod exact;
mod hash;
mod image_encoder;
mod ivf;
mod neighbours;
mod options;
mod plan;
mod precomputed;
mod random;
mod records;
mod rices;
mod row_file;
mod rules;
mod run;
mod scene;
mod sentence_encoder;
mod tfidf;
mod top_k;
mod vectors;
mod work;

pub use error::{Result, RetrieveError};
pub use exact::search as search_exactly;
pub use image_encoder::{ImageEncoder, ImagePooling};
pub use ivf::{DEFAULT_PROBES, Ivf, IvfOptions, MOST_LISTS};
pub use options::{
    EmbeddingSource, ExampleOrder, Heuristic, Observer, RetrieveOptions, RetrieveReport, Stage,
};
pub use plan::{Cost, EXACT_PRODUCTS, IndexKind, SearchPlan};
pub use precomputed::Precomputed;
pub use rices::Rices;
pub use rules::TurnedAway;
pub use run::{MOST_EXAMPLES, retrieve};
pub use scene::frame_of;
pub use sentence_encoder::SentenceEncoder;
pub use tfidf::{DEFAULT_WIDTH as TFIDF_WIDTH, TfIdf};
pub use top_k::{Neighbour, TopK};
pub use vectors::{Vectors, narrowed, normalise_rows};
