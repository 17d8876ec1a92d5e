//! What this process takes, as the system tells it.

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

/// Hands pages of freed buffers back to the system, where the allocator can do that. Buffers of batches of many sizes leave holes
/// that later ones do not fit, and without this the process grows from step to step.
pub fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim may be called at any time, by any thread; it touches only memory that nobody holds.
    unsafe {
        libc::malloc_trim(0);
    }
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_large_buffer_shows_in_the_peak() {
        let before = resident_bytes().expect("status");
        let buffer = vec![1u8; 64 << 20];
        assert!(peak_bytes().expect("status") >= before + (48 << 20));
        assert_eq!(buffer.iter().map(|&b| u64::from(b)).sum::<u64>(), 64 << 20);
    }
}
