//! The scene score of ffmpeg's `select` filter, for GIFs and folders: how much more a frame differs from the one before
//! than that one did from its own predecessor.

use crate::RgbImage;

/// Scores frames that come one after the other.
#[derive(Default)]
pub struct SceneScore {
    before: Option<RgbImage>,
    difference: f64,
}

impl SceneScore {
    /// The score of the next frame, 0 to 1; 0 for the first, and after a change of size 1.
    pub fn next(&mut self, frame: RgbImage) -> f64 {
        let score = match &self.before {
            None => 0.0,
            Some(before) if before.pixels().len() != frame.pixels().len() => 1.0,
            Some(before) => {
                let pairs = before.pixels().iter().zip(frame.pixels());
                let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
                let difference = sum as f64 / frame.pixels().len() as f64;
                let score = difference.min((difference - self.difference).abs()) / 100.0;
                self.difference = difference;
                score.min(1.0)
            }
        };
        self.before = Some(frame);
        score
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_scores_and_rest_does_not() {
        let flat = |value| RgbImage::new(2, 2, vec![value; 12]).expect("sizes fit");
        let mut score = SceneScore::default();
        let scores: Vec<f64> = [10, 10, 60, 60, 50].map(|value| score.next(flat(value))).to_vec();
        assert_eq!(scores, [0.0, 0.0, 0.5, 0.0, 0.1]);
    }
}
