//! `otter quickstart`: from nothing to a tuned model and a report.

use anyhow::Result;
use otter_nn::DType;
use otter_toybox::quickstart::QuickstartOptions;
use otter_train::metrics::Progress;

use crate::arguments::Quickstart;
use crate::commands::checkpoint::hub;
use crate::commands::interrupt;
use crate::output;

/// Runs the command.
pub fn run(arguments: &Quickstart) -> Result<()> {
    let options = QuickstartOptions {
        out: arguments.out.clone(),
        seed: arguments.seed,
        base: arguments.base.as_deref().map(hub::resolve_model).transpose()?,
        scale: arguments.scale,
        device: arguments.device.device.clone(),
        rounded: arguments.device.dtype == DType::Bf16,
    };
    let flag = interrupt::flag("stopping at the end of this step or stage")?;
    let mut progress = Progress::new(50);
    let result =
        otter_toybox::quickstart::run(&options, &flag, &mut progress, &mut |line| eprintln!("{line}"))?;
    if arguments.json {
        return output::json(&result.json);
    }
    output::text(&result.table)?;
    output::text(&format!("report: {}", result.report.display()))?;
    output::text(&format!("model:  {}", result.model.display()))?;
    output::text(&format!(
        "next:   otter chat --model {}\n        otter eval --model {} --data {}",
        result.model.display(),
        result.model.display(),
        options.out.join("data").display()
    ))
}
