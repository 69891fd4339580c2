// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What both ends of a migration are configured with.

/// The configuration on which source and target agree, outside of the stream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Agreement {
    /// Whether and how a target acknowledges initial bytes. Needs a return path.
    pub acks: Acks,
    /// Which connections carry what devices give when the guest is stopped.
    pub device_state: DeviceState,
    /// Whether every RAM section ends with a synchronisation point of all multifd channels, instead of one being where the source says
    /// so: `multifd-flush-after-each-section`, which machine types up to 8.0 have on.
    pub flush_each_section: bool,
    /// The VM's UUID (`-uuid`), which every multifd channel repeats. All zeros if it has none.
    pub uuid: [u8; 16],
}

impl Agreement {
    /// An agreement, as machine types from 8.1 on have it; the UUID is none.
    #[must_use]
    pub const fn new(acks: Acks, device_state: DeviceState) -> Self {
        Self { acks, device_state, flush_each_section: false, uuid: [0; 16] }
    }
}

/// How initial bytes are acknowledged (capability `switchover-ack`).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Acks {
    /// Not at all.
    #[default]
    Off,
    /// Once for all devices, when the last of them has its initial bytes. The target counts its own devices. QEMU up to
    /// 11.0, and later with `switchover-ack-legacy=on`, which older machine types have.
    Once,
    /// Once for each time a device says that its initial bytes are out. The source counts what it asked for, so that a
    /// device that starts anew is waited for again. QEMU 11.1.
    PerRequest,
}

/// Which connections carry what devices give when the guest is stopped. What they give before always uses the main one.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum DeviceState {
    /// The main connection.
    #[default]
    Main,
    /// The multifd channels.
    Multifd,
}
