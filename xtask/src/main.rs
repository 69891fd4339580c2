//! The workspace's command.
fn main() {}
