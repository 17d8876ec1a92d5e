//! How much room a disk has.

use std::path::Path;

/// Bytes that may still be written where `folder` is or will be; nothing where the system does not say.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let absolute = std::path::absolute(folder).ok()?;
    let existing = absolute.ancestors().find(|ancestor| ancestor.exists())?;
    of_existing(existing)
}

#[cfg(unix)]
fn of_existing(folder: &Path) -> Option<u64> {
    let data = nix::sys::statvfs::statvfs(folder).ok()?;
    (data.blocks_available() as u64).checked_mul(data.fragment_size() as u64)
}

#[cfg(not(unix))]
fn of_existing(_: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_folder_to_come_is_on_the_disk_of_its_parent() {
        let folder = std::env::temp_dir();
        let free = free_bytes(&folder.join("not/yet/there")).unwrap_or_default();
        assert!(free > 0);
    }
}
