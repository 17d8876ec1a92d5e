//! Texts and pictures as vectors: TF-IDF, sentence encoders, the CLIP tower, and vectors made elsewhere.

pub(super) mod bert;
pub(super) mod bert_config;
pub(super) mod embed;
pub(super) mod image_encoder;
pub(super) mod precomputed;
pub(super) mod sentence_encoder;
pub(super) mod tfidf;
