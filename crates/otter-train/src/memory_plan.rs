//! What a run will need in memory, item by item, and what it really took.

use std::fmt;

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

/// An itemised plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The lines.
    pub items: Vec<PlanItem>,
}

impl MemoryPlan {
    /// Weights, gradients and moments for so many parameters, `half` of `total` being kept in 16 bits, plus what the
    /// process already holds and the activations of a batch.
    pub fn new(total: u64, half: u64, trained: u64, process: u64, activations: Vec<PlanItem>) -> Self {
        let full = total - half;
        let mut weights = PlanItem::new("weights", 4 * full, format!("{full} parameters x 4 bytes"));
        if half > 0 {
            weights.bytes += 2 * half;
            weights.note += &format!(" and {half} frozen ones x 2 bytes");
        }
        let mut items = vec![
            weights,
            PlanItem::new("gradients", 4 * trained, format!("{trained} trained parameters x 4 bytes")),
            PlanItem::new("optimizer moments", 8 * trained, "two of 4 bytes a trained parameter"),
        ];
        items.extend(activations);
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

/// Bytes in the largest fitting binary unit.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.2} {}", UNITS[unit]) }
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

/// Peak resident memory of this process; `None` where the system does not tell.
pub fn peak_bytes() -> Option<u64> {
    status_field("VmHWM:")
}

/// Resident memory of this process now; `None` where the system does not tell.
pub fn resident_bytes() -> Option<u64> {
    status_field("VmRSS:")
}

/// Lets the peak start again from the present value, where the system can do that.
pub fn reset_peak() {
    #[cfg(target_os = "linux")]
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

#[cfg(target_os = "linux")]
fn status_field(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kibibytes: u64 = line[name.len()..].trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(not(target_os = "linux"))]
fn status_field(_name: &str) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_adds_up_and_prints_every_item() {
        let plan =
            MemoryPlan::new(1000, 0, 100, 0, vec![PlanItem::new("decoder activations", 1 << 20, "why")]);
        assert_eq!(plan.total(), 4000 + 400 + 800 + (1 << 20));
        let half = MemoryPlan::new(1000, 600, 100, 0, Vec::new());
        assert_eq!(half.total(), 4 * 400 + 2 * 600 + 400 + 800);
        assert!(half.items[0].note.contains("600 frozen ones x 2 bytes"));
        let text = plan.to_string();
        for expected in
            ["weights", "gradients", "optimizer moments", "decoder activations", "1.00 MiB", "total"]
        {
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn bytes_are_readable() {
        assert_eq!(show_bytes(17), "17 B");
        assert_eq!(show_bytes(1536), "1.50 KiB");
        assert_eq!(show_bytes(33 << 30), "33.00 GiB");
    }

    #[test]
    fn the_comparison_names_both_numbers() {
        assert!(compare(1 << 30, Some(1 << 29)).contains("50 % of the plan"));
        assert!(compare(1 << 30, None).contains("does not tell"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_large_buffer_shows_in_the_peak() {
        let before = resident_bytes().expect("status");
        let buffer = vec![1u8; 64 << 20];
        assert!(peak_bytes().expect("status") >= before + (48 << 20));
        assert_eq!(buffer.iter().map(|&b| u64::from(b)).sum::<u64>(), 64 << 20);
    }
}
