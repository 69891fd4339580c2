// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The simulated devices take what the vendors' decoders take, and nothing else but what the kernel is known to let pass.
#![allow(clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::sync::Arc;

use device_hisi::compatible::Target;
use device_hisi::model::{Effect, Vf};
use device_mlx5::record::Header;
use device_mlx5::{Limits, Reason, StreamDecoder};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use savevm_core::sim::{Errno, SimDevice, SystemClock};
use stream_codec::testkit::run;

use crate::config::Config;
use crate::models;

const STOP: u32 = 1;
const STOP_COPY: u32 = 3;
const RESUMING: u32 = 4;
const PRE_COPY: u32 = 6;

fn device(options: &str) -> SimDevice {
    let config = Config::parse(&format!("kernel=7.3; device a {options}")).unwrap();
    let device = models::device(&config.devices[0].sim, config.kernel, Arc::new(SystemClock::new())).unwrap();
    device.open().unwrap();
    device
}

/// A whole saving session that begins in `first`.
fn save(device: &SimDevice, first: u32) -> Vec<u8> {
    let session = device.set_state(first).unwrap().unwrap();
    let mut stream = Vec::new();
    let mut buffer = [0; 4096];
    for state in [first, STOP_COPY] {
        device.set_state(state).unwrap();
        loop {
            match session.read(&mut buffer) {
                Ok(0) | Err(Errno::ENOMSG) => break,
                read => stream.extend_from_slice(&buffer[..read.unwrap()]),
            }
        }
        if state == PRE_COPY {
            // The query is what has an increment saved.
            let _ = session.precopy_info().unwrap();
            let read = session.read(&mut buffer).unwrap_or(0);
            stream.extend_from_slice(&buffer[..read]);
        }
    }
    device.set_state(STOP).unwrap();
    stream
}

/// What the device says to a writer who stops at the first error, as he must.
fn resume<'a>(target: &SimDevice, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(), Errno> {
    let session = target.set_state(RESUMING).unwrap().unwrap();
    pieces.into_iter().try_for_each(|piece| session.write(piece).map(|_| ()))?;
    target.set_state(STOP).map(|_| ())
}

/// hisi.md section 4, "Not validated by the kernel at all", and a state without addresses, which is not loaded.
const HISI_NOT_LOOKED_AT: [&str; 6] = ["qp_base", "vf_qm_state", "eqe_dma", "aeqe_dma", "sqc_dma", "cqc_dma"];

/// mlx5.md section 3: no completeness check, and a STOP_COPY_SIZE of any length, anywhere.
fn is_not_noticed(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::TruncatedHeader { .. }
            | Reason::TruncatedRecord { .. }
            | Reason::NoImage { .. }
            | Reason::StopCopySizeLength { .. }
            | Reason::StopCopySizeNotFirst { .. }
    )
}

/// Something done to a stream of records.
#[derive(Clone, Debug)]
enum Edit {
    Optional(Index, u32, Vec<u8>),
    Flags(Index, u32),
    Tag(Index, u32),
    Bytes(Index, u64),
    Drop(Index),
    Swap(Index, Index),
    Truncate(Index),
    Damage(Index),
}

impl Edit {
    /// An edit that neither the driver nor the firmware may mind.
    fn is_harmless(&self) -> bool {
        matches!(self, Self::Optional(..) | Self::Flags(..))
    }

    fn apply(&self, records: &mut Vec<(Header, Vec<u8>)>) {
        let len = records.len();
        match self {
            Self::Optional(at, tag, payload) => {
                // STOP_COPY_SIZE stays the first.
                let header = Header { record_bytes: payload.len() as u64, flags: 1, tag: *tag };
                records.insert(at.index(len) + 1, (header, payload.clone()));
            }
            Self::Flags(at, flags) => {
                let header = &mut records[at.index(len)].0;
                // On a tag that is not known the bit has a meaning.
                header.flags = if header.tag < 2 { *flags } else { flags | 1 };
            }
            Self::Tag(at, tag) => records[at.index(len)].0.tag = *tag,
            Self::Bytes(at, bytes) => records[at.index(len)].0.record_bytes = *bytes,
            Self::Drop(at) if len > 1 => drop(records.remove(at.index(len))),
            Self::Swap(one, other) => records.swap(one.index(len), other.index(len)),
            Self::Damage(at) => records[at.index(len)].1.iter_mut().take(1).for_each(|byte| *byte ^= 1),
            Self::Drop(_) | Self::Truncate(_) => {}
        }
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        3 => (at(), 2u32.., vec(any::<u8>(), 0..9)).prop_map(|(at, tag, payload)| Edit::Optional(at, tag, payload)),
        3 => (at(), any::<u32>()).prop_map(|(at, flags)| Edit::Flags(at, flags)),
        1 => (at(), 0u32..4).prop_map(|(at, tag)| Edit::Tag(at, tag)),
        1 => (at(), prop_oneof![0u64..300, any::<u64>()]).prop_map(|(at, bytes)| Edit::Bytes(at, bytes)),
        1 => at().prop_map(Edit::Drop),
        1 => (at(), at()).prop_map(|(one, other)| Edit::Swap(one, other)),
        1 => at().prop_map(Edit::Truncate),
        1 => at().prop_map(Edit::Damage),
    ]
}

fn records(mut stream: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut records = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk() {
        let header = Header::decode(header);
        let (payload, rest) = rest.split_at(usize::try_from(header.record_bytes).unwrap());
        records.push((header, payload.to_vec()));
        stream = rest;
    }
    records
}

proptest! {
    #[test]
    fn hisi(edits in vec((any::<Index>(), any::<u8>()), 0..3), length in 0usize..400, at in any::<Index>()) {
        let source = device("model=hisi seed=1");
        let mut bytes = save(&source, PRE_COPY);
        for (at, byte) in edits {
            bytes[at.index(176)] = byte;
        }
        // Half of the lengths leave the stream alone.
        bytes.resize(if length < 200 { length } else { 176 }, 0);
        let own = Target { dev_id: 0xa251, qp_num: 64, que_iso_cfg: 0, reads_v2: true };
        let (first, second) = bytes.split_at(at.index(bytes.len() + 1));
        let target = device("model=hisi seed=2");
        let verdict = resume(&target, [first, second]);

        let mut vf = Vf::new(own);
        let mut session = vf.resume();
        let by_model = session.write(first).and_then(|_| session.write(second)).and_then(|_| session.stop());
        prop_assert_eq!(verdict.map_err(Errno::raw), by_model.map(|_| ()).map_err(|refusal| refusal.errno()));

        let admitted = device_hisi::Stream::decode(&bytes).map(|stream| stream.admit(&own));
        match (admitted, verdict) {
            // The source and the target have the same match part, but for what nobody compares.
            (Ok(Ok(_)), Ok(())) if bytes.len() == 176 => {
                prop_assert_eq!(&save(&target, STOP_COPY)[40..], &bytes[40..]);
            }
            (Ok(Ok(_)), verdict) => prop_assert_eq!(verdict, Ok(())),
            (Ok(Err(refused)), Ok(())) => {
                prop_assert!(refused.mismatches.is_empty());
                let fields = refused.findings.errors().map(|finding| finding.field()).collect::<Vec<_>>();
                prop_assert!(fields.iter().all(|field| HISI_NOT_LOOKED_AT.contains(field)), "{fields:?}");
                let is_left_out = matches!(by_model, Ok(Effect::NoAddress));
                prop_assert_eq!(save(&target, STOP_COPY).len() == 40, is_left_out);
            }
            (Err(error), Ok(())) => prop_assert!(false, "taken: {}", error),
            (_, Err(_)) => {}
        }
    }

    #[test]
    fn mlx5(edits in vec(edit(), 0..3), piece in 1usize..300) {
        let source = device("model=mlx5 initial=200 dirty=150 stop=300 full=250 seed=1");
        let mut records = records(&save(&source, PRE_COPY));
        prop_assert_eq!(records.len(), 4, "a size, an initial, an incremental and a final image");
        edits.iter().for_each(|edit| edit.apply(&mut records));
        let mut stream = Vec::new();
        for (header, payload) in &records {
            stream.extend_from_slice(&header.encode());
            stream.extend_from_slice(payload);
        }
        if let Some(Edit::Truncate(at)) = edits.last() {
            stream.truncate(at.index(stream.len() + 1));
        }
        let target = device("model=mlx5 seed=2");
        let verdict = resume(&target, stream.chunks(piece));
        let decoded = run(StreamDecoder::new(Limits::FORMAT), |_, _: &mut Vec<()>| {}, 24, [&stream[..]]).result;

        // Leaving RESUMING succeeds whatever came before.
        target.set_state(STOP).unwrap();
        let is_moved = |target: &SimDevice| {
            let read = |device: &SimDevice| {
                let mut words = [0; 16];
                device.region_read(0, 0, &mut words).unwrap();
                words
            };
            read(target) == read(&source)
        };
        match (decoded, verdict) {
            (Ok(()), Ok(())) if edits.iter().all(Edit::is_harmless) => prop_assert!(is_moved(&target)),
            (Ok(()), Ok(())) => {}
            // What is inside an image only the firmware knows: damage, or an increment without what it builds on.
            (Ok(()), Err(errno)) => {
                prop_assert_eq!(errno, Errno::EINVAL);
                prop_assert!(!edits.iter().all(Edit::is_harmless));
            }
            (Err(error), Ok(())) => prop_assert!(is_not_noticed(error.reason), "taken: {}", error),
            (Err(_), Err(_)) => {}
        }
    }
}
