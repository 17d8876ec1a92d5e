//! How much memory a run takes: the plan item by item, a forecast from headers alone, what is made smaller to fit
//! `train.memory`, and what the process really took.

mod activations;
pub mod choice;
pub(crate) mod forecast;
mod plan;
mod process;

pub use activations::{TrainedParts, activation_plan};
pub use plan::{
    BatchShape, Holdings, HostHoldings, Kept, MemoryPlan, PlanItem, WeightPlan, compare, show_bytes,
};
pub use process::{give_back_freed, peak_bytes, reset_peak, resident_bytes};
