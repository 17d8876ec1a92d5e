//! What a run will need in memory, item by item, and what it really took.

use std::fmt;

use otter_nn::{Parameters, QuantizedFormat, Weight};

use crate::optim::MomentPrecision;

/// Sizes of one micro-batch that decide about activations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchShape {
    /// Rows.
    pub batch: usize,
    /// Tokens of a row.
    pub length: usize,
    /// Images or video frames of all media items.
    pub frames: usize,
    /// Media items.
    pub media: usize,
    /// Predicted tokens.
    pub targets: usize,
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanItem {
    /// What takes the memory.
    pub name: String,
    /// How much.
    pub bytes: u64,
    /// How it was computed.
    pub note: String,
}

impl PlanItem {
    /// One line.
    pub fn new(name: impl Into<String>, bytes: u64, note: impl Into<String>) -> Self {
        Self { name: name.into(), bytes, note: note.into() }
    }
}

/// An itemized plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The lines.
    pub items: Vec<PlanItem>,
}

/// How a parameter is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Trained: 32 bits in memory of its own.
    Trained,
    /// Frozen, in 32 bits.
    Full,
    /// Frozen, in 16 bits.
    Half,
    /// Frozen, in blocks.
    Quantized(QuantizedFormat),
}

/// Elements and bytes of parameters that are kept in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    kept: Kept,
    elements: u64,
    bytes: u64,
}

/// All weights by the way they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WeightPlan {
    parts: Vec<Part>,
    /// Elements of the largest matrix in blocks.
    largest_blocks: u64,
}

impl WeightPlan {
    /// The weights as they are in memory.
    pub fn of(parameters: &Parameters) -> Self {
        let mut plan = Self::default();
        for parameter in parameters.iter() {
            let kept = match &parameter.tensor {
                _ if parameter.trainable => Kept::Trained,
                Weight::Full(_) => Kept::Full,
                Weight::F16(_) | Weight::Bf16(_) => Kept::Half,
                Weight::Quantized(matrix) => Kept::Quantized(matrix.format()),
            };
            plan.add(kept, parameter.tensor.len() as u64, parameter.tensor.bytes());
        }
        plan
    }

    /// Adds a parameter.
    pub fn add(&mut self, kept: Kept, elements: u64, bytes: u64) {
        if let Kept::Quantized(_) = kept {
            self.largest_blocks = self.largest_blocks.max(elements);
        }
        match self.parts.iter_mut().find(|part| part.kept == kept) {
            Some(part) => {
                part.elements += elements;
                part.bytes += bytes;
            }
            None => self.parts.push(Part { kept, elements, bytes }),
        }
    }

    /// Elements of the trained parameters.
    pub fn trained(&self) -> u64 {
        self.parts.iter().filter(|part| part.kept == Kept::Trained).map(|part| part.elements).sum()
    }

    /// What a GPU needs besides: see `otter_cuda`.
    fn gpu_items(&self) -> Option<PlanItem> {
        let bytes = otter_cuda::quantized::TILE_BYTES.min(4 * self.largest_blocks);
        (bytes > 0).then(|| PlanItem::new("dequantized blocks", bytes, "a part of a frozen matrix at a time"))
    }

    fn items(&self) -> Vec<PlanItem> {
        let item = |part: &Part| {
            let (name, size) = match part.kept {
                Kept::Trained => ("trained weights", "4 bytes"),
                Kept::Full => ("frozen weights, 32 bits", "4 bytes"),
                Kept::Half => ("frozen weights, 16 bits", "2 bytes"),
                Kept::Quantized(QuantizedFormat::Q8_0) => ("frozen weights, q8_0", "8.5 bits"),
                Kept::Quantized(QuantizedFormat::Q4K) => ("frozen weights, q4_k", "4.5 bits"),
            };
            PlanItem::new(name, part.bytes, format!("{} parameters x {size}", part.elements))
        };
        self.parts.iter().map(item).collect()
    }
}

/// What a plan is made of besides activations.
#[derive(Debug, Clone, Copy)]
pub struct Holdings<'a> {
    /// The weights.
    pub weights: &'a WeightPlan,
    /// How AdamW keeps its moments.
    pub moments: MomentPrecision,
    /// What the process holds besides, where it computes itself; a GPU has its own memory.
    pub host: Option<HostHoldings>,
}

/// What a process that computes itself holds besides weights, moments and activations.
#[derive(Debug, Clone, Copy)]
pub struct HostHoldings {
    /// Samples prepared ahead, in bytes.
    pub loader: u64,
    /// Decoded pictures that are kept for later samples, in bytes.
    pub pictures: u64,
    /// What the process held before the weights were loaded.
    pub process: u64,
}

impl MemoryPlan {
    /// Weights, gradients and moments, samples prepared ahead, what the process already holds, and the activations of a batch.
    pub fn new(holdings: Holdings<'_>, activations: Vec<PlanItem>) -> Self {
        let Holdings { weights, moments, host } = holdings;
        let trained = weights.trained();
        let mut items = weights.items();
        items.push(PlanItem::new(
            "gradients",
            4 * trained,
            format!("{trained} trained parameters x 4 bytes"),
        ));
        let how = match moments {
            MomentPrecision::Full => "two of 4 bytes a trained parameter",
            MomentPrecision::EightBit => "two of 1 byte a trained parameter, two scales for 256",
        };
        items.push(PlanItem::new("optimizer moments", moments.bytes(trained), how));
        items.extend(activations);
        let Some(HostHoldings { loader, pictures, process }) = host else {
            items.extend(weights.gpu_items());
            return Self { items };
        };
        items.push(PlanItem::new("samples ahead", loader, "pictures of samples that wait finished"));
        if pictures > 0 {
            items.push(PlanItem::new("picture cache", pictures, "at most; data.frame_cache_mib"));
        }
        if process > 0 {
            items.push(PlanItem::new("program and data", process, "measured before the weights were loaded"));
        }
        Self { items }
    }

    /// All items together.
    pub fn total(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "memory plan")?;
        for item in &self.items {
            writeln!(f, "  {:<26} {:>10}  {}", item.name, show_bytes(item.bytes), item.note)?;
        }
        write!(f, "  {:<26} {:>10}", "total", show_bytes(self.total()))
    }
}

/// Bytes as plans and their messages show them.
pub fn show_bytes(bytes: u64) -> String {
    otter_io::text::bytes(bytes, 2)
}

/// Plan and measurement side by side.
pub fn compare(planned: u64, peak: Option<u64>) -> String {
    match peak {
        Some(peak) => format!(
            "memory: planned {} for the largest batch, measured peak {} ({:.0} % of the plan)",
            show_bytes(planned),
            show_bytes(peak),
            100.0 * peak as f64 / planned.max(1) as f64
        ),
        None => format!("memory: planned {}; this system does not tell the peak", show_bytes(planned)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_adds_up_and_prints_every_item() {
        let mut weights = WeightPlan::default();
        weights.add(Kept::Full, 300, 1200);
        weights.add(Kept::Trained, 60, 240);
        weights.add(Kept::Half, 600, 1200);
        weights.add(Kept::Trained, 40, 160);
        let holdings = Holdings {
            weights: &weights,
            moments: MomentPrecision::Full,
            host: Some(HostHoldings { loader: 10, pictures: 7, process: 0 }),
        };
        let activations = || vec![PlanItem::new("decoder activations", 1 << 20, "why")];
        let plan = MemoryPlan::new(holdings, activations());
        assert_eq!(plan.total(), 1200 + 400 + 1200 + 400 + 800 + (1 << 20) + 17);
        let eight = Holdings { moments: MomentPrecision::EightBit, ..holdings };
        assert_eq!(MemoryPlan::new(eight, activations()).total(), plan.total() - 600 + 8);
        let gpu = MemoryPlan::new(Holdings { host: None, ..holdings }, activations());
        assert_eq!(gpu.total(), plan.total() - 17);
        let text = plan.to_string();
        for expected in [
            "trained weights",
            "600 parameters x 2 bytes",
            "gradients",
            "optimizer moments",
            "decoder activations",
            "1.00 MiB",
            "total",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn the_comparison_names_both_numbers() {
        assert!(compare(1 << 30, Some(1 << 29)).contains("50 % of the plan"));
        assert!(compare(1 << 30, None).contains("does not tell"));
    }
}
