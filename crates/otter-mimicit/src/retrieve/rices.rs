//! Examples for a query that is not in the set, by the similarity of pictures: retrieval in-context example selection (RICES;
//! Yang et al., arXiv 2109.05014; used by Flamingo, arXiv 2204.14198, with the nearest example right before the query).

use super::encode::image_encoder::ImageEncoder;
use super::error::{Result, RetrieveError};
use super::options::ExampleOrder;
use super::vectors::Vectors;
use crate::retrieve::search::exact;

/// Pictures encoded at once.
const PICTURES: usize = 32;

/// The pictures of a support set, encoded.
pub struct Rices {
    encoder: ImageEncoder,
    support: Vectors,
}

impl Rices {
    /// Encodes the support set. Pictures that cannot be decoded are never picked.
    pub fn new(encoder: ImageEncoder, support: impl IntoIterator<Item = Option<Vec<u8>>>) -> Self {
        let mut rows = Vec::new();
        let mut support = support.into_iter();
        loop {
            let pictures: Vec<_> = support.by_ref().take(PICTURES).collect();
            if pictures.is_empty() {
                break;
            }
            rows.extend(encoder.encode(&pictures));
        }
        let support = Vectors::from_rows(&rows, encoder.width());
        Self { encoder, support }
    }

    /// Numbers of the `k` pictures of the support set that are most similar to an encoded picture. `leave_out` are numbers
    /// that must not be picked, such as the query's own.
    ///
    /// # Errors
    /// When the query cannot be decoded.
    pub fn select(
        &self,
        query: Vec<u8>,
        k: usize,
        leave_out: &[usize],
        order: ExampleOrder,
    ) -> Result<Vec<usize>> {
        let row = self.encoder.encode(&[Some(query)]);
        if row.iter().all(|&value| value == 0.0) {
            return Err(RetrieveError::Options("the query's picture cannot be decoded".into()));
        }
        let wanted = k.saturating_add(leave_out.len()).min(self.support.len());
        let found = exact::search(&self.support, &row, wanted).into_iter().flatten();
        let mut picked: Vec<usize> = found
            .map(|neighbor| neighbor.item as usize)
            .filter(|&item| self.support.is_usable(item) && !leave_out.contains(&item))
            .take(k)
            .collect();
        if order == ExampleOrder::NearestLast {
            picked.reverse();
        }
        Ok(picked)
    }
}
