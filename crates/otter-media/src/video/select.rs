//! Which frames are kept, as a rule that is told to ffmpeg as an expression and applied by us to GIFs and folders.

use super::{FrameSampling, VideoError, VideoOptions};

/// Times of frames are sums of fractions; a frame this part of an interval too early still belongs to the next.
const TOLERANCE: f64 = 1e-6;

/// The number of the interval of `step` seconds in which a time lies.
pub fn cell(time: f64, step: f64) -> usize {
    (time / step + TOLERANCE).floor().max(0.0) as usize
}

/// The frames to keep.
#[derive(Debug, Clone, PartialEq)]
pub enum Selection {
    /// The first frame of every interval of `step` seconds; of `cells` intervals only `keep`, spread evenly.
    Intervals { step: f64, keep: usize, cells: usize },
    /// `keep` of `frames` frames: the middle ones of equal parts.
    Middles { keep: usize, frames: usize },
    /// These frames, counted from 0.
    Listed(Vec<usize>),
    /// The first, and those with a scene score above this.
    Scenes(f64),
}

/// The selection that `options` ask for, and whether the limit thinned it out. The closures are called only if needed.
pub fn plan(
    options: &VideoOptions,
    seconds: &mut dyn FnMut() -> Result<f64, VideoError>,
    frames: &mut dyn FnMut() -> Result<usize, VideoError>,
    scenes: &mut dyn FnMut(f64) -> Result<Vec<usize>, VideoError>,
) -> Result<(Selection, bool), VideoError> {
    let limit = if options.max_frames == 0 { usize::MAX } else { options.max_frames };
    Ok(match options.sampling {
        FrameSampling::Uniform(wanted) => {
            let frames = frames()?;
            (Selection::Middles { keep: wanted.min(limit), frames }, wanted > limit && frames > limit)
        }
        FrameSampling::Fps(rate) => {
            let step = 1.0 / rate;
            if limit == usize::MAX {
                return Ok((Selection::Intervals { step, keep: 1, cells: 1 }, false));
            }
            // The interval that begins with the end of the last frame holds none.
            let cells = ((seconds()? / step - TOLERANCE).ceil().max(1.0)) as usize;
            let keep = cells.min(limit);
            (Selection::Intervals { step, keep, cells }, keep < cells)
        }
        FrameSampling::SceneChange(score) if limit == usize::MAX => (Selection::Scenes(score), false),
        FrameSampling::SceneChange(score) => {
            let all = scenes(score)?;
            let kept = spread(all.len(), limit).map(|index| all[index]).collect();
            (Selection::Listed(kept), all.len() > limit)
        }
    })
}

/// At most `keep` of the positions 0 to `count` − 1: the middles of equal parts.
pub fn spread(count: usize, keep: usize) -> impl Iterator<Item = usize> {
    let kept = keep.min(count);
    (0..kept).map(move |part| ((2 * part as u128 + 1) * count as u128 / (2 * kept as u128)) as usize)
}

/// How many frames of [`Selection::Middles`] lie before frame `index`.
fn middles_before(index: usize, keep: usize, frames: usize) -> f64 {
    (index as f64 * keep as f64 / frames as f64 - 0.5).ceil()
}

impl Selection {
    /// Most frames it gives, for ffmpeg to stop early.
    pub fn most(&self) -> Option<usize> {
        match self {
            Self::Intervals { keep, cells, .. } => (*cells > 1).then_some(*keep),
            Self::Middles { keep, frames } => Some(*keep.min(frames)),
            Self::Listed(indices) => Some(indices.len()),
            Self::Scenes(_) => None,
        }
    }

    /// The rule in the language of ffmpeg's `select` filter. `origin` is the time from which intervals are counted.
    pub fn expression(&self, origin: &str) -> String {
        match self {
            Self::Intervals { step, keep, cells } => {
                let interval = |time: &str| {
                    let cell = format!("floor(({time}-{origin})/{step}+{TOLERANCE})");
                    if keep == cells { cell } else { format!("floor({cell}*{keep}/{cells})") }
                };
                format!("isnan(prev_t)+gt({},{})", interval("t"), interval("prev_t"))
            }
            Self::Middles { keep, frames } if keep >= frames => "1".to_owned(),
            Self::Middles { keep, frames } => {
                let before = |index: &str| format!("ceil({index}*{keep}/{frames}-0.5)");
                format!("gt({},{})", before("(n+1)"), before("n"))
            }
            Self::Listed(indices) if indices.is_empty() => "0".to_owned(),
            Self::Listed(indices) => {
                let terms: Vec<String> = indices.iter().map(|index| format!("eq(n,{index})")).collect();
                terms.join("+")
            }
            Self::Scenes(score) => format!("eq(n,0)+gt(scene,{score})"),
        }
    }

    /// Whether frame `index` at `time` is kept; `previous` is the time of the frame before it. Scenes are not decided
    /// here: they are listed.
    pub fn keeps(&self, index: usize, time: f64, previous: Option<f64>) -> bool {
        match self {
            Self::Intervals { step, keep, cells } => {
                let interval = |time: f64| (cell(time, *step) as u128 * *keep as u128) / *cells as u128;
                previous.is_none_or(|previous| interval(time) > interval(previous))
            }
            Self::Middles { keep, frames } if keep >= frames => true,
            Self::Middles { keep, frames } => {
                middles_before(index + 1, *keep, *frames) > middles_before(index, *keep, *frames)
            }
            Self::Listed(indices) => indices.binary_search(&index).is_ok(),
            Self::Scenes(_) => false,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kept(selection: &Selection, times: &[f64]) -> Vec<usize> {
        let previous = |index: usize| index.checked_sub(1).map(|before| times[before]);
        (0..times.len()).filter(|&index| selection.keeps(index, times[index], previous(index))).collect()
    }

    fn planned(sampling: FrameSampling, max_frames: usize, frames: usize, rate: f64) -> (Vec<usize>, bool) {
        let options = VideoOptions { sampling, max_frames, ..VideoOptions::default() };
        let times: Vec<f64> = (0..frames).map(|index| index as f64 / rate).collect();
        let (selection, thinned) =
            plan(&options, &mut || Ok(frames as f64 / rate), &mut || Ok(frames), &mut |_| {
                Ok((0..frames).collect())
            })
            .unwrap();
        (kept(&selection, &times), thinned)
    }

    #[test]
    fn a_fixed_rate_takes_the_first_frame_of_every_interval() {
        assert_eq!(planned(FrameSampling::Fps(1.0), 128, 100, 25.0), (vec![0, 25, 50, 75], false));
        assert_eq!(planned(FrameSampling::Fps(0.5), 128, 100, 25.0), (vec![0, 50], false));
        // 29.97: the first frame at or after each second.
        let second = planned(FrameSampling::Fps(1.0), 0, 91, 30_000.0 / 1001.0).0;
        assert_eq!(second, vec![0, 30, 60, 90]);
        // More than there are: each once.
        assert_eq!(planned(FrameSampling::Fps(50.0), 0, 3, 25.0).0, vec![0, 1, 2]);
    }

    #[test]
    fn the_limit_thins_out_evenly_and_keeps_the_grid() {
        let (frames, thinned) = planned(FrameSampling::Fps(1.0), 4, 250, 25.0);
        assert_eq!((frames, thinned), (vec![0, 75, 125, 200], true));
        assert!(!planned(FrameSampling::Fps(1.0), 10, 250, 25.0).1);
        assert_eq!(planned(FrameSampling::SceneChange(0.3), 2, 8, 1.0), (vec![2, 6], true));
    }

    #[test]
    fn uniform_takes_the_middles() {
        assert_eq!(planned(FrameSampling::Uniform(4), 128, 8, 1.0).0, vec![1, 3, 5, 7]);
        assert_eq!(planned(FrameSampling::Uniform(1), 128, 9, 1.0).0, vec![4]);
        assert_eq!(planned(FrameSampling::Uniform(9), 128, 3, 1.0).0, vec![0, 1, 2]);
        assert_eq!(planned(FrameSampling::Uniform(300), 2, 4, 1.0), (vec![1, 3], true));
    }

    proptest! {
        #[test]
        fn uniform_gives_exactly_the_number_and_equals_spread(frames in 1_usize..3000, wanted in 1_usize..200) {
            let kept = planned(FrameSampling::Uniform(wanted), 0, frames, 25.0).0;
            prop_assert_eq!(kept, spread(frames, wanted).collect::<Vec<_>>());
        }

        #[test]
        fn a_limit_is_kept(frames in 1_usize..3000, limit in 1_usize..50, rate in 0.1_f64..30.0) {
            let (kept, thinned) = planned(FrameSampling::Fps(rate), limit, frames, 25.0);
            prop_assert!(kept.len() <= limit && kept[0] == 0);
            if !thinned {
                prop_assert_eq!(kept, planned(FrameSampling::Fps(rate), 0, frames, 25.0).0);
            }
        }
    }
}
