//! Few-shot evaluation and reports.
