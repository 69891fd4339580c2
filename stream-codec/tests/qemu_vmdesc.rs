// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Random vmdescs: their JSON is judged as by serde_json, and payloads are read as they are described.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests may panic"
)]

use proptest::prelude::*;
use serde_json::{Value, json};
use stream_codec::decode::{Decoder, Step};
use stream_codec::qemu::{
    Extent, Item, MainDecoder, MainOptions, SectionHeader, SectionKind, VmState, VmStateReader, Vmdesc, VmdescLimits,
    encode_file_header,
};

/// A vmstate: fields, then subsections.
#[derive(Clone, Debug)]
struct State {
    fields: Vec<Field>,
    subsections: Vec<State>,
}

#[derive(Clone, Debug)]
enum Field {
    Leaf { bytes: u64, count: u64 },
    Struct { state: State, count: u64 },
}

/// What a reader says of a payload: where a part stands, its name, and how long it is in all.
type Part = (String, String, u64);

impl State {
    fn json(&self, name: &str) -> Value {
        let fields: Vec<Value> = self.fields.iter().enumerate().map(|(number, field)| field.json(number)).collect();
        let subsections = self.subsections.iter().enumerate();
        let subsections: Vec<Value> =
            subsections.map(|(number, state)| state.json(&format!("{name}/s{number}"))).collect();
        json!({ "vmsd_name": name, "version": 3, "fields": fields, "subsections": subsections })
    }

    fn bytes(&self, name: &str) -> u64 {
        let fields = self.fields.iter().map(|field| field.count() * field.bytes());
        let subsections = self.subsections.iter().enumerate().map(|(number, state)| {
            let name = format!("{name}/s{number}");
            // 05, length of the name, name, version.
            1 + 1 + name.len() as u64 + 4 + state.bytes(&name)
        });
        fields.chain(subsections).sum()
    }

    /// Writes a payload and lists what a reader must find in it.
    fn write(&self, name: &str, path: &str, payload: &mut Vec<u8>, parts: &mut Vec<Part>) {
        let below = |step: String| if path.is_empty() { step } else { format!("{path}/{step}") };
        for (number, field) in self.fields.iter().enumerate() {
            match field {
                Field::Leaf { bytes, count } if bytes * count > 0 => {
                    payload.extend((0..bytes * count).map(|byte| (byte as u8).wrapping_mul(31) ^ number as u8));
                    parts.push((path.into(), format!("f{number}"), bytes * count));
                }
                Field::Leaf { .. } => {}
                Field::Struct { state, count } => (0..*count).filter(|_| field.bytes() > 0).for_each(|element| {
                    let index = if *count > 1 { format!("[{element}]") } else { String::new() };
                    state.write("struct", &below(format!("f{number}{index}")), payload, parts);
                }),
            }
        }
        for (number, state) in self.subsections.iter().enumerate() {
            let name = format!("{name}/s{number}");
            payload.extend_from_slice(&[5, name.len() as u8]);
            payload.extend_from_slice(name.as_bytes());
            payload.extend_from_slice(&3u32.to_be_bytes());
            parts.push((path.into(), name.clone(), 6 + name.len() as u64));
            state.write(&name, &below(name.clone()), payload, parts);
        }
    }
}

impl Field {
    fn json(&self, number: usize) -> Value {
        let mut field = json!({ "name": format!("f{number}"), "type": "buffer", "size": self.bytes() });
        // QEMU leaves the length out of an array of one.
        if self.count() != 1 {
            field["array_len"] = self.count().into();
        }
        if let Self::Struct { state, .. } = self {
            field["struct"] = state.json("struct");
        }
        field
    }

    /// Of one element.
    fn bytes(&self) -> u64 {
        match self {
            Self::Leaf { bytes, .. } => *bytes,
            Self::Struct { state, .. } => state.bytes("struct"),
        }
    }

    fn count(&self) -> u64 {
        match self {
            Self::Leaf { count, .. } | Self::Struct { count, .. } => *count,
        }
    }
}

fn state() -> impl Strategy<Value = State> {
    let leaf =
        (prop_oneof![0u64..9, 60u64..70, 200u64..300], 0u64..4).prop_map(|(bytes, count)| Field::Leaf { bytes, count });
    let flat =
        proptest::collection::vec(leaf.clone(), 0..4).prop_map(|fields| State { fields, subsections: Vec::new() });
    flat.prop_recursive(3, 24, 4, move |inner| {
        let structure = (inner.clone(), 0u64..4).prop_map(|(state, count)| Field::Struct { state, count });
        let field = prop_oneof![leaf.clone(), structure];
        (proptest::collection::vec(field, 0..4), proptest::collection::vec(inner, 0..3))
            .prop_map(|(fields, subsections)| State { fields, subsections })
    })
}

/// Adds a part, or a piece to the part of which it is one.
fn collect(part: &VmState<'_>, raw: &[u8], parts: &mut Vec<Part>) {
    match part {
        VmState::Field(field) if field.piece.position > 0 => {
            let last = parts.last_mut().unwrap();
            assert_eq!((&*last.0, &*last.1, last.2), (&*field.path.to_string(), field.name, field.piece.position));
            last.2 += raw.len() as u64;
        }
        VmState::Field(field) => parts.push((field.path.to_string(), field.name.into(), raw.len() as u64)),
        VmState::Subsection { path, name, version_id: 3 } => {
            parts.push((path.to_string(), (*name).into(), raw.len() as u64));
        }
        other => panic!("{other:?}"),
    }
}

/// What the decoder of the main stream finds in a FULL section with this payload.
fn decoded(vmdesc: &Vmdesc, payload: &[u8], piece_bytes: usize) -> Vec<Part> {
    let mut stream = Vec::new();
    encode_file_header(&mut stream);
    let header = SectionHeader {
        kind: SectionKind::Full,
        id: 7,
        idstr: "dev",
        instance_id: 4,
        version_id: 1,
        extent: Extent::Vmdesc,
    };
    Item::Section(header).encode(&mut stream).unwrap();
    stream.extend_from_slice(payload);
    Item::Footer { id: 7 }.encode(&mut stream).unwrap();
    let mut decoder = MainDecoder::new(MainOptions { vmdesc: Some(vmdesc.clone()), ..MainOptions::default() });
    let (mut parts, mut footers) = (Vec::new(), 0);
    for mut piece in stream.chunks(piece_bytes) {
        while let Step { consumed, event: Some(event) } = decoder.decode(piece).unwrap() {
            match event.item {
                Item::VmState(part) => collect(&part, event.raw, &mut parts),
                Item::Section(header) => assert_eq!(header.extent, Extent::Vmdesc),
                Item::Footer { .. } => footers += 1,
                _ => {}
            }
            piece = &piece[consumed..];
        }
    }
    assert_eq!(footers, 1, "the footer is found where the payload ends");
    parts
}

/// Texts that are often almost JSON.
fn soup() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "{", "}", "[", "]", ":", ",", "\"", "\\", "\\u", "\\n", "d83d", "dE00", "0", "1", "23", "-", "+", ".", "e",
        "E2", " ", "\n", "true", "null", "fals", "é", "\u{7f}", "\t", "{\"a\":", "[1,", "\"b\"", "-0.5e-1",
    ];
    proptest::collection::vec(proptest::sample::select(PIECES), 0..9).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_payload_is_read_as_it_is_described(state in state(), piece_bytes in 1usize..600) {
        let mut device = state.json("dev");
        device["name"] = "dev".into();
        device["instance_id"] = 4.into();
        let text = serde_json::to_vec_pretty(&json!({ "page_size": 4096, "devices": [device] })).unwrap();
        let vmdesc = Vmdesc::parse(&text, &VmdescLimits::DEFAULT).unwrap();
        let (mut payload, mut parts) = (Vec::new(), Vec::new());
        state.write("dev", "", &mut payload, &mut parts);
        prop_assert_eq!(vmdesc.devices().next().unwrap().bytes, payload.len() as u64);

        let mut reader = VmStateReader::new(&vmdesc, "dev", 4, &payload).unwrap();
        let (mut found, mut bytes) = (Vec::new(), Vec::new());
        while let Some(event) = reader.next_part().unwrap() {
            bytes.extend_from_slice(event.raw);
            collect(&event.item, event.raw, &mut found);
        }
        prop_assert_eq!(&found, &parts);
        prop_assert_eq!(bytes, &payload[..]);
        prop_assert_eq!(decoded(&vmdesc, &payload, piece_bytes), parts);
    }

    #[test]
    fn a_payload_of_another_length_is_refused(state in state(), surplus in -3i32..4) {
        let mut device = state.json("dev");
        (device["name"], device["instance_id"]) = ("dev".into(), 4.into());
        let text = serde_json::to_vec(&json!({ "devices": [device] })).unwrap();
        let vmdesc = Vmdesc::parse(&text, &VmdescLimits::DEFAULT).unwrap();
        let (mut payload, mut parts) = (Vec::new(), Vec::new());
        state.write("dev", "", &mut payload, &mut parts);
        let length = payload.len().saturating_add_signed(surplus as isize);
        let is_right = length == payload.len();
        payload.resize(length, 0);
        let mut reader = VmStateReader::new(&vmdesc, "dev", 4, &payload).unwrap();
        let result = loop {
            match reader.next_part().map(|event| event.is_some()) {
                Ok(true) => {}
                Ok(false) => break true,
                Err(_) => break false,
            }
        };
        prop_assert_eq!(result, is_right);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    /// In a member that a vmdesc does not know, all JSON is taken, and nothing else.
    #[test]
    fn json_is_what_serde_json_takes(soup in soup()) {
        let text = format!("{{\"x\":{soup}}}");
        let ours = Vmdesc::parse(text.as_bytes(), &VmdescLimits::DEFAULT);
        match serde_json::from_str::<Value>(&text) {
            Ok(_) => prop_assert!(ours.is_ok(), "{} {:?}", text, ours),
            // A number that no machine has is JSON all the same.
            Err(error) if error.to_string().starts_with("number out of range") => {}
            Err(error) => prop_assert!(ours.is_err(), "{} {}", text, error),
        }
    }
}
