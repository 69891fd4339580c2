// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! What goes wrong, as a table.

use super::super::super::scenario::{Kind, Moment};
use super::super::Way;
use super::{Deed, Ending, Fault, When};
use crate::qemu::proxy::{Change, Point};

/// Devices that are quick, and those that can be caught while state flows.
const QUICK: (Kind, usize) = (Kind::PreCopy, 2);
const SLOW: (Kind, usize) = (Kind::Slow, 2);
/// Far more state than our target may hold.
const LARGE: (Kind, usize) = (Kind::Large, 1);
/// Where nothing can come, our side need not wait long to know it.
const IMPATIENT: &[&str] = &["--silence", "2"];
/// A byte of a config state that identifies the device: its revision.
const REVISION: usize = 12;

/// Every fault, in the order they run.
pub(in super::super) fn all(way: Way) -> Vec<Fault> {
    let mut all = Vec::new();
    for channels in [0, 2] {
        all.extend(
            while_flowing(way)
                .into_iter()
                .map(|(what, deed, when)| Fault { devices: SLOW, ..fault(what, channels, deed, when) }),
        );
        let points = if way == Way::In { into_us() } else { out_of_us() };
        all.extend(
            points
                .into_iter()
                .map(|(what, deed, point, ending)| Fault { ending, ..fault(what, channels, deed, When::At(point)) }),
        );
    }
    all.extend(disagreements(way));
    all.extend(lies(way));
    all
}

fn fault(what: &'static str, channels: u8, deed: Deed, when: When) -> Fault {
    Fault { what, channels, devices: QUICK, deed, when, ours: &[], reason: "", ending: Ending::Refused }
}

fn while_flowing(way: Way) -> Vec<(&'static str, Deed, When)> {
    use Deed::{Cut, TheyCancel, WeCancel};
    let pre_copy = if way == Way::In { When::At(Point::PreCopy) } else { When::Flowing(Moment::PreCopy) };
    let stop_copy = When::Flowing(Moment::StopCopy);
    let mut all = vec![
        ("connections cut in PRE_COPY", Cut, pre_copy),
        ("connections cut in STOP_COPY", Cut, stop_copy),
        ("QEMU gives up in PRE_COPY", TheyCancel, pre_copy),
        ("we give up in PRE_COPY", WeCancel, pre_copy),
        ("we give up in STOP_COPY", WeCancel, stop_copy),
    ];
    // A QEMU source hears of a cancel in STOP_COPY when it has sent everything, which is "at the switchover" below.
    if way == Way::Out {
        all.push(("QEMU gives up in STOP_COPY", TheyCancel, stop_copy));
    }
    all
}

type AtPoint = (&'static str, Deed, Point, Ending);

fn into_us() -> Vec<AtPoint> {
    use Deed::{Cut, TheyCancel, WeCancel};
    use Ending::{Refused, TwoGuests};
    use Point::{End, LastWord, Setup, Switchover};
    vec![
        ("connections cut in the setup", Cut, Setup, Refused),
        ("QEMU gives up in the setup", TheyCancel, Setup, Refused),
        ("we give up in the setup", WeCancel, Setup, Refused),
        ("connections cut at the switchover", Cut, Switchover, Refused),
        ("QEMU gives up at the switchover", TheyCancel, Switchover, Refused),
        ("we give up at the switchover", WeCancel, Switchover, Refused),
        ("connections cut while we load", Cut, End, Refused),
        ("QEMU gives up while we load", TheyCancel, End, Refused),
        ("we give up while we load", WeCancel, End, Refused),
        ("connections cut before our last word", Cut, LastWord, TwoGuests),
        ("QEMU gives up before our last word", TheyCancel, LastWord, TwoGuests),
    ]
}

fn out_of_us() -> Vec<AtPoint> {
    use Deed::{Cut, TheyCancel, WeCancel};
    use Ending::{InDoubt, Moved, Refused};
    use Point::{End, LastWord, Opening, Pong, Switchover};
    // QEMU answers the second PING when it has read all sections.
    let loaded = Pong(2);
    vec![
        ("connections cut in the setup", Cut, Opening, Refused),
        ("QEMU gives up in the setup", TheyCancel, Opening, Refused),
        ("we give up in the setup", WeCancel, Opening, Refused),
        ("connections cut at the switchover", Cut, Switchover, Refused),
        ("QEMU gives up at the switchover", TheyCancel, Switchover, Refused),
        ("we give up at the switchover", WeCancel, Switchover, Refused),
        ("connections cut while QEMU loads", Cut, loaded, Refused),
        ("QEMU gives up while it loads", TheyCancel, loaded, Refused),
        ("we give up while QEMU loads", WeCancel, loaded, Refused),
        ("connections cut before the end of the stream", Cut, End, InDoubt),
        ("connections cut before QEMU's last word", Cut, LastWord, InDoubt),
        ("QEMU gives up before its last word", TheyCancel, LastWord, InDoubt),
        ("we give up before QEMU's last word", WeCancel, LastWord, Moved),
    ]
}

fn disagreements(way: Way) -> Vec<Fault> {
    let disagree =
        |what, channels, ours, reason| Fault { ours, reason, ..fault(what, channels, Deed::Disagree, When::Always) };
    match way {
        Way::In => vec![
            disagree(
                "another machine type here",
                0,
                &["--machine-type", "pc-i440fx-10.0"],
                "this is a 'pc-i440fx-10.0'",
            ),
            disagree("fewer devices here", 0, &["--leave-out", "1"], "the source has a device '0000:00:11.0/vfio'"),
            disagree("multifd at QEMU only", 2, &["--only-main"], "switch the capability multifd off"),
            disagree("multifd here only", 0, &["--channels", "2", "--silence", "2"], "is multifd on at the source"),
            disagree("device state over multifd at QEMU only", 2, &["--state-on-main"], "x-migration-multifd-transfer"),
        ],
        _ => vec![
            disagree("config bytes that differ", 0, &["--damage-config", "12"], ""),
            Fault {
                ending: Ending::QemuDecides,
                ..disagree("config bytes that differ", 2, &["--damage-config", "12"], "")
            },
            disagree("a section version that QEMU has not", 0, &["--section-version", "2"], ""),
            disagree("multifd at QEMU only", 2, &["--only-main", "--silence", "2"], "nothing came for 2 s"),
            disagree("device state over multifd at QEMU only", 2, &["--state-on-main"], ""),
        ],
    }
}

fn lies(way: Way) -> Vec<Fault> {
    let lie =
        |what, channels, change, reason| Fault { reason, ..fault(what, channels, Deed::Change(change), When::Always) };
    let far = "a packet of 289 bytes with index 0xfffffffe";
    if way == Way::In {
        let version = (Change::Version(2), "version of a VFIO section 2; this reader knows 1");
        let stranger = (Change::Stranger, "the source has a device '0000:00:1e.0/vfio'");
        let config = (Change::Config(REVISION), "the revision at 0x8 is");
        return vec![
            lie(far, 2, Change::FarPacket, "packet 4294967294 came while packet"),
            Fault { devices: LARGE, ..lie("a packet is missing", 2, Change::Gap, "packet 0 is missing, and no more") },
            lie("a section version that we have not", 0, version.0, version.1),
            lie("a section version that we have not", 2, version.0, version.1),
            lie("a section that we have not", 0, stranger.0, stranger.1),
            lie("a section that we have not", 2, stranger.0, stranger.1),
            lie("config bytes that differ", 0, config.0, config.1),
            lie("config bytes that differ", 2, config.0, config.1),
        ];
    }
    vec![
        Fault { ending: Ending::QemuDecides, ..lie(far, 2, Change::FarPacket, "") },
        Fault {
            ours: IMPATIENT,
            ending: Ending::InDoubt,
            ..lie("a packet is missing", 2, Change::Gap, "the target's last word (SHUT) is still to come")
        },
        Fault {
            deed: Deed::ChangeBounded(Change::Gap, 1 << 20),
            ours: IMPATIENT,
            ending: Ending::QemuDecides,
            ..lie("more early packets than QEMU may hold", 2, Change::Gap, "")
        },
        lie("a section that QEMU has not", 0, Change::Stranger, ""),
        lie("a section that QEMU has not", 2, Change::Stranger, ""),
    ]
}
