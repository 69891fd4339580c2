// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The migrations that are tried, as a table.

use crate::qemu::machine::SoftDevice;
use crate::qemu::terms::Terms;
pub(super) use crate::qemu::terms::{WayBack, connections};
use crate::vm::Series;

/// One migration.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    /// Unique.
    pub(super) name: String,
    /// Of both sides, apart from their seeds.
    pub(super) kind: Kind,
    /// How many of them.
    pub(super) count: usize,
    /// Multifd channels, which then also carry device state; 0: everything over the main connection.
    pub(super) channels: u8,
    /// What the two sides agree on.
    pub(super) way_back: WayBack,
    /// What ends it early.
    pub(super) blow: Option<Blow>,
}

/// What the devices are like.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Kind {
    /// STOP_COPY, P2P and PRE_COPY.
    PreCopy,
    /// The same, and once it has initial bytes anew.
    Reinit,
    /// STOP_COPY and P2P.
    StopCopyP2p,
    /// STOP_COPY only; QEMU takes no second device without P2P.
    StopCopy,
    /// The kernel's sample driver.
    Mtty,
    /// So slow that a migration can be caught in any phase.
    Slow,
    /// With much more state than a target may hold, and slow to take it.
    Large,
}

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Blow {
    /// All connections break.
    Cut(Moment),
    /// The source is told to cancel.
    Cancel(Moment),
    /// The target hangs up at once.
    NobodyThere,
}

/// When it goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Moment {
    PreCopy,
    StopCopy,
}

/// Which side a device is on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    Source,
    /// A source that is ours.
    OurSource,
    Target,
}

/// Bytes of a device's initial phase, and of what it gives in STOP_COPY only.
pub(super) const INITIAL_BYTES: u64 = 128 << 10;
pub(super) const STOP_BYTES: u64 = 3 << 20;
/// Bytes of state of a device that has much.
pub(super) const LARGE_BYTES: u64 = 96 << 20;

impl Scenario {
    /// What both sides are told.
    pub(super) fn terms(&self, series: Series) -> Terms {
        Terms { channels: self.channels, way_back: self.way_back, series }
    }
}

impl Kind {
    /// The devices of one side. Seeds differ between the sides: what a target ends up with it must have been sent.
    pub(super) fn devices(self, count: usize, role: Role) -> Vec<SoftDevice> {
        let first_seed = match role {
            Role::Source | Role::OurSource => 1usize,
            Role::Target => 101,
        };
        let device = |index: usize| {
            let options = self.options(role);
            let seed = first_seed.saturating_add(index);
            SoftDevice {
                name: format!("d{index}"),
                options: if self == Self::Mtty { options } else { format!("{options} seed={seed}") },
                is_mediated: self == Self::Mtty,
            }
        };
        (0..count).map(device).collect()
    }

    fn options(self, role: Role) -> String {
        let sizes = format!("initial={INITIAL_BYTES} dirty=64KiB stop={STOP_BYTES}");
        match (self, role) {
            (Self::PreCopy, _) => format!("model=plain caps=7 {sizes}"),
            // The first query is made at setup, the second before the initial bytes can have been acknowledged.
            // Ours asks before and after it reads: twice before the initial bytes are out.
            (Self::Reinit, Role::OurSource) => format!("model=plain caps=7 {sizes} reinit-after=3"),
            (Self::Reinit, _) => format!("model=plain caps=7 {sizes} reinit-after=2"),
            (Self::StopCopyP2p, _) => format!("model=plain caps=3 initial=0 dirty=0 stop={STOP_BYTES}"),
            (Self::StopCopy, _) => format!("model=plain caps=1 initial=0 dirty=0 stop={STOP_BYTES}"),
            (Self::Large, _) => {
                format!("model=plain caps=3 initial=0 dirty=0 stop={LARGE_BYTES} write-ms-per-mib=8")
            }
            (Self::Mtty, _) => "model=mtty ports=2".to_owned(),
            // Never done before it is stopped, where nothing is what a QEMU waits for; our rule is content with little.
            (Self::Slow, Role::Source) => format!(
                "model=plain caps=7 initial=4MiB dirty=64KiB dirty-rate=64MiB/s stop={STOP_BYTES} read-ms-per-mib=100"
            ),
            (Self::Slow, Role::OurSource) => {
                format!("model=plain caps=7 initial=4MiB dirty=64KiB stop={STOP_BYTES} read-ms-per-mib=100")
            }
            // Slower than the source: it still loads when the source has sent everything.
            (Self::Slow, Role::Target) => {
                format!("model=plain caps=7 initial=4MiB dirty=64KiB stop={STOP_BYTES} write-ms-per-mib=200")
            }
        }
    }

    /// Whether it has anything to send while the guest runs.
    pub(super) fn has_pre_copy(self) -> bool {
        !matches!(self, Self::StopCopyP2p | Self::StopCopy | Self::Large)
    }

    pub(super) fn name(self, count: usize) -> String {
        let what = match self {
            Self::PreCopy => "pre-copy device",
            Self::Reinit => "device that starts anew",
            Self::StopCopyP2p | Self::StopCopy => "stop-copy device",
            Self::Mtty => "mtty",
            Self::Slow => "slow device",
            Self::Large => "large device",
        };
        if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
    }
}

/// Every scenario, in the order they run.
pub(super) fn all() -> Vec<Scenario> {
    use WayBack::{None as NoWayBack, ReturnPath, SwitchoverAck};
    let mut all = Vec::new();
    for kind in [(Kind::PreCopy, 1), (Kind::PreCopy, 4), (Kind::StopCopy, 1), (Kind::StopCopyP2p, 4)] {
        for (channels, way_back) in
            [(0, NoWayBack), (0, ReturnPath), (0, SwitchoverAck), (2, ReturnPath), (4, ReturnPath), (2, SwitchoverAck)]
        {
            all.push(whole(kind, channels, way_back));
        }
    }
    for (channels, way_back) in [(0, SwitchoverAck), (2, SwitchoverAck)] {
        all.push(whole((Kind::Reinit, 1), channels, way_back));
        all.push(whole((Kind::Reinit, 4), channels, way_back));
    }
    for (channels, way_back) in [(0, ReturnPath), (2, ReturnPath)] {
        all.push(whole((Kind::Mtty, 1), channels, way_back));
    }
    let blows = [Moment::PreCopy, Moment::StopCopy].map(|moment| [Blow::Cut(moment), Blow::Cancel(moment)]);
    for blow in blows.into_iter().flatten().chain([Blow::NobodyThere]) {
        for channels in [0, 2] {
            all.push(broken(blow, channels));
        }
    }
    all
}

pub(super) fn whole((kind, count): (Kind, usize), channels: u8, way_back: WayBack) -> Scenario {
    let name = format!("{}, {}", kind.name(count), connections(channels, way_back));
    Scenario { name, kind, count, channels, way_back, blow: None }
}

fn broken(blow: Blow, channels: u8) -> Scenario {
    let moment = |moment| match moment {
        Moment::PreCopy => "in PRE_COPY",
        Moment::StopCopy => "in STOP_COPY",
    };
    let what = match blow {
        Blow::Cut(when) => format!("connections cut {}", moment(when)),
        Blow::Cancel(when) => format!("cancelled {}", moment(when)),
        Blow::NobodyThere => "the target hangs up at once".to_owned(),
    };
    let name = format!("{what}, {}", connections(channels, WayBack::ReturnPath));
    let (kind, way_back) = (Kind::Slow, WayBack::ReturnPath);
    Scenario { name, kind, count: 2, channels, way_back, blow: Some(blow) }
}

#[cfg(test)]
mod test {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let all = all();
        let names: BTreeSet<_> = all.iter().map(|scenario| &scenario.name).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn several_devices_have_p2p() {
        for scenario in all().iter().filter(|scenario| scenario.count > 1) {
            assert!(!matches!(scenario.kind, Kind::StopCopy | Kind::Mtty), "{}", scenario.name);
        }
    }

    #[test]
    fn options_are_what_the_simulator_takes() {
        use savevm_core::sim::SimConfig;
        let kinds = [Kind::PreCopy, Kind::Reinit, Kind::StopCopyP2p, Kind::StopCopy, Kind::Mtty, Kind::Slow];
        for kind in kinds {
            let both = [Role::Source, Role::Target].map(|role| kind.devices(2, role));
            for device in both.into_iter().flatten() {
                let made = SimConfig::parse(&device.options).unwrap().device().unwrap();
                let flags = made.migration_flags().unwrap();
                assert_eq!(kind.has_pre_copy(), flags & 4 != 0, "VFIO_MIGRATION_PRE_COPY of {kind:?}");
            }
        }
    }
}
