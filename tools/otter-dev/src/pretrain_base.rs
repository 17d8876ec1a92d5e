//! `otter-dev pretrain-base`: makes the small base model that ships with this project.

use anyhow::{Result, bail};
use otter_cli::{eprintln, output};
use otter_toybox::quickstart::base::{self, BaseProgress, BaseRecipe};

use crate::arguments::PretrainBase;

/// Runs the command.
pub fn run(arguments: &PretrainBase) -> Result<()> {
    if !(arguments.scale > 0.0 && arguments.scale <= 100.0) {
        bail!("--scale is {}; it must be above 0 and at most 100", arguments.scale);
    }
    let mut recipe = BaseRecipe { seed: arguments.seed, ..BaseRecipe::default() };
    recipe.language.seed = arguments.seed;
    recipe.vision.seed = arguments.seed;
    let scaled = |steps: u64| ((steps as f64 * arguments.scale) as u64).max(1);
    recipe.language.steps = scaled(recipe.language.steps);
    recipe.vision.steps = scaled(recipe.vision.steps);
    let binding = base::pretrain(&arguments.out, &recipe, &|progress| match progress {
        BaseProgress::Vision(p) => {
            let [color, shape, size] = p.accuracy.map(|a| 100.0 * a);
            let left = p.seconds / p.step as f64 * (p.steps - p.step) as f64;
            eprintln!(
                "vision {:>5}/{} loss {:.3}  color {color:.1} %  shape {shape:.1} %  size {size:.1} %  {:.0} s, {left:.0} s left",
                p.step, p.steps, p.loss, p.seconds
            );
        }
        BaseProgress::Language(p) => {
            let left = p.seconds / p.step as f64 * (p.steps - p.step) as f64;
            let r = p.rates;
            eprintln!(
                "language {:>5}/{} loss {:.3}  copy {:.2}  bind soft {:.2}  in words {:.2}  answers {:.2}  rung {}/{}  {:.0} s, {left:.0} s left",
                p.step,
                p.steps,
                p.loss,
                r.copy,
                r.soft,
                r.words,
                r.answers,
                p.rungs.soft,
                p.rungs.words,
                p.seconds
            );
        }
    })?;
    output::text(&format!(
        "{}: two-way binding of held-out words in text: {:.1} % (soft {:.1} %, without examples {:.1} %)",
        arguments.out.display(),
        100.0 * binding.words,
        100.0 * binding.soft,
        100.0 * binding.zero_shot
    ))
}
