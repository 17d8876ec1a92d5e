//! Whether a checkpoint was tuned at all. `…-Init` releases are meant to be tuned; what they answer means nothing.
//!
//! Three signs are certain: this program says in `config.json` that it tuned the model (then only rows that cannot have been
//! touched are spoken of), all gates of the cross-attention exactly zero (images then have no influence), and the row of
//! `<answer>` all zero or bit for bit equal to another row. One is a strong hint: a row whose length is far outside the
//! range of the table's rows, as the mean of the table (short) or a fresh row of unit normals (long) is.

use crate::directory::account::reason_to_ignore;
use crate::facts::part::is_input_table;
use otter_data::SpecialTokens;
use otter_formats::TensorEntry;

/// Rows of the table that are looked at for the usual length.
const MOST_SAMPLED: usize = 512;
/// A row this many times shorter than the shortest sampled, or longer than the longest, is no trained row.
const FAR_SHORTER: f64 = 0.5;
const FAR_LONGER: f64 = 4.0;

/// What the gates and the row of `<answer>` show.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainingSigns {
    /// Number of gates.
    pub gates: usize,
    /// How many of them are exactly zero.
    pub zero_gates: usize,
    /// Why the row of `<answer>` looks untouched.
    pub answer_row: Option<String>,
}

impl TrainingSigns {
    /// Whether all gates are zero.
    pub fn all_gates_zero(&self) -> bool {
        self.gates > 0 && self.zero_gates == self.gates
    }

    /// Sentences for somebody who is about to ask the model something.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.all_gates_zero() {
            warnings.push(format!(
                "all {} gates of the cross-attention are exactly zero: this checkpoint was never tuned, and images have no \
                 influence on its answers. Tune it first (otter train)",
                self.gates
            ));
        }
        if let Some(reason) = &self.answer_row {
            warnings.push(format!(
                "the embedding of <answer> looks untouched ({reason}): this checkpoint was probably not tuned to answer, or \
                 its tokenizer has <answer> and <PAD> in the other order"
            ));
        }
        warnings
    }

    pub(crate) fn of<'t>(
        tensors: impl Iterator<Item = (&'t str, &'t TensorEntry)>,
        special: Option<&SpecialTokens>,
        tuned: bool,
    ) -> Self {
        let mut signs = Self::default();
        for (name, entry) in tensors {
            if reason_to_ignore(name).is_some() {
                continue;
            }
            if name.ends_with(".gated_cross_attn_layer.attn_gate")
                || name.ends_with(".gated_cross_attn_layer.ff_gate")
            {
                // A gate is one number.
                for value in entry.read_f32(name).unwrap_or_default() {
                    signs.gates += 1;
                    signs.zero_gates += usize::from(value == 0.0);
                }
            } else if let Some(special) = special.filter(|_| is_input_table(name)) {
                signs.answer_row = answer_row(entry, special, tuned);
            }
        }
        signs
    }
}

/// Why the row of `<answer>` looks untouched.
fn answer_row(table: &TensorEntry, special: &SpecialTokens, tuned: bool) -> Option<String> {
    let own_id = special.answer as usize;
    let own = table.row_f32(own_id)?;
    if own.iter().all(|&value| value == 0.0) {
        return Some("all zero".to_owned());
    }
    let rows = table.shape.first().copied()?;
    // The rows that it may have been copied from: those of the other added tokens, of the ends, and those behind.
    let ids = [special.endofchunk, special.image, special.pad];
    let ends = special.bos.into_iter().chain(special.eos).chain(std::iter::once(0));
    let first_added = special.endofchunk.min(special.image) as usize;
    let behind = first_added.min(rows)..rows.min(first_added + MOST_SAMPLED);
    let mut others: Vec<usize> = ids.into_iter().chain(ends).map(|id| id as usize).chain(behind).collect();
    others.sort_unstable();
    others.dedup();
    let equal = others.into_iter().find(|&id| {
        id != own_id
            && table
                .row_f32(id)
                .is_some_and(|other| other.iter().zip(&own).all(|(a, b)| a.to_bits() == b.to_bits()))
    });
    if let Some(id) = equal {
        return Some(format!("equal to row {id}"));
    }
    if tuned {
        return None;
    }
    // The usual length, from rows spread over the base's vocabulary.
    let step = first_added.div_ceil(MOST_SAMPLED).max(1);
    let lengths = (0..first_added).step_by(step).filter_map(|id| table.row_f32(id)).map(|row| length(&row));
    let (shortest, longest) = lengths
        .filter(|length| *length > 0.0)
        .fold((f64::INFINITY, 0.0), |(low, high): (f64, f64), length| (low.min(length), high.max(length)));
    let own = length(&own);
    (own < shortest * FAR_SHORTER && shortest.is_finite() || own > longest * FAR_LONGER && longest > 0.0)
        .then(|| {
            format!(
                "its length is {own:.3}, while rows of ordinary tokens have {shortest:.3} to {longest:.3}"
            )
        })
}

fn length(row: &[f32]) -> f64 {
    row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
}
