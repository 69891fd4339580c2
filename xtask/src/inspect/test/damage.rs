// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Streams that are cut, and streams with other bytes.

use std::collections::BTreeSet;

use super::samples::{VMDESC, channel, hisi, main, mlx5, mtty, native, return_path};
use super::{Outcome, Run};
use crate::inspect::paper::Shape;

/// Every kind of stream, by name.
fn all() -> Vec<(&'static str, Vec<u8>)> {
    let (mtty, identity) = (mtty(), "mig1:mdev-mtty/mtty/mtty-1/mtty@1.0;!ports=1");
    vec![
        ("main", main(&mtty[..24], Some(&mtty[24..]), (0x4348, 0x3253))),
        ("multifd", channel(0, &[(0, &mtty[24..40]), (1, &mtty[40..]), (2, b"")])),
        ("return path", return_path(0)),
        ("native", native(&[("tty", identity, &mtty[..24], &mtty[24..])])),
        ("hisi", hisi()),
        ("mlx5", mlx5()),
        ("mtty", mtty),
    ]
}

/// The offset that a fault names, which is in the file.
fn offset(outcome: &Outcome, length: usize, what: &str) -> u64 {
    let (_, rest) = outcome.text.split_once("fault at offset ").unwrap_or_else(|| panic!("{what}: {}", outcome.text));
    let number = rest.split(' ').next().unwrap().parse().unwrap();
    assert!(number <= length as u64, "{what}: {}", outcome.text);
    assert!(rest.contains("  meaning  ") && rest.contains("  do       "), "{what}: {}", outcome.text);
    number
}

#[test]
fn a_cut_stream_is_explained_as_far_as_it_goes_and_the_fault_is_where_it_was_cut() {
    for (name, stream) in all() {
        let mut ends = BTreeSet::new();
        let step = if stream.len() > 2048 { 7 } else { 1 };
        for length in (1..stream.len()).step_by(step) {
            let mut run = Run::on(&[&stream[..length]]);
            let outcome = run.check();
            if outcome.is_good {
                ends.insert(length);
            } else if outcome.text.contains("no stream is known") {
                // Too short to be recognised.
                assert!(length < 24, "{name} cut at {length}: {}", outcome.text);
            } else {
                let offset = offset(&outcome, length, &format!("{name} cut at {length}"));
                assert!(offset + 8192 > length as u64, "{name} cut at {length}: fault at {offset}");
            }
            run.options.check = false;
            run.tree();
        }
        // Where a stream may end, by what it says itself.
        let may_end = match name {
            // QEMU's stream may have no vmdesc, and neither its channels nor its answers have an end of their own.
            "main" => vec![stream.len() - 5 - VMDESC.len()],
            "multifd" => vec![64, 1408, 6848],
            "return path" => vec![8, 12],
            // A match part alone is a state, and so is an image.
            "hisi" => vec![40],
            "mlx5" => vec![24 + 16 + 17],
            _ => Vec::new(),
        };
        assert!(ends.iter().all(|end| may_end.contains(end)), "{name} may end at {may_end:?}, and did at {ends:?}");
        assert!(Run::on(&[&stream]).check().is_good, "{name} is whole");
    }
}

/// A generator whose numbers are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

#[test]
fn no_damage_makes_it_panic_or_write_what_is_no_json() {
    let mut random = Random(0x5eed);
    for (name, stream) in all() {
        for round in 0..300 {
            let mut damaged = stream.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(damaged.len());
                damaged[at] = random.below(256) as u8;
            }
            let what = format!("{name}, round {round}");
            let mut run = Run::on(&[&damaged]);
            run.options.all = round % 2 == 0;
            run.tree();
            let json = run.shape(Shape::Json { has_items: true });
            let is_json = serde_json::from_str::<serde_json::Value>(&json.text).is_ok();
            assert!(is_json || json.text.contains("no stream is known"), "{what}: {}", json.text);
            let outcome = run.check();
            if !outcome.is_good && !outcome.text.contains("no stream is known") {
                offset(&outcome, damaged.len(), &what);
            }
        }
    }
}

#[test]
fn bytes_of_any_kind_are_read_as_any_kind() {
    let mut random = Random(0xbadc_0ffe);
    for round in 0..200 {
        let bytes: Vec<u8> = (0..random.below(3000)).map(|_| random.below(256) as u8).collect();
        for format in ["native", "qemu", "multifd", "return-path", "hisi", "mlx5", "virtio", "mtty", "opaque"] {
            let mut run = Run::on(&[&bytes]).format(format);
            let outcome = run.check();
            if !bytes.is_empty() && format != "opaque" {
                assert!(!outcome.is_good, "round {round}: random bytes are a good {format}");
                offset(&outcome, bytes.len(), &format!("round {round}, {format}"));
            }
        }
    }
}
