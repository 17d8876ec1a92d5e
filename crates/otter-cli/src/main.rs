//! The `otter` command.
fn main() {}
