// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! VFIO sections of QEMU's main stream: arbitrary records, and arbitrary bytes behind them, with the length of the
//! config state described, searched, or described wrongly.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stream_codec::qemu::{
    Command, Footers, Item, MainOptions, SectionKind, Vmdesc, VmdescLimits, encode_configuration, encode_file_header,
};
use stream_codec_fuzz::check::{LIMITS, main_stream};
use stream_codec_fuzz::parts::{Kind, VfioPart, header};

const IDSTR: &str = "00:01.0/vfio";

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    seed: u64,
    footers: Option<bool>,
    /// What the vmdesc, if there is one, says that a FULL section is long.
    described_bytes: Option<u16>,
    /// Whether the sections are in a package.
    is_packaged: bool,
    sections: Vec<Section<'a>>,
    /// The stream has an end and a vmdesc.
    is_whole: bool,
    /// Bytes behind that, as they are.
    rest: &'a [u8],
}

#[derive(Arbitrary, Debug)]
struct Section<'a> {
    kind: Kind,
    records: Vec<VfioPart<'a>>,
}

impl Input<'_> {
    fn sections(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for section in &self.sections {
            header(section.kind.into(), 1, IDSTR, 0, 1).encode(&mut out).expect("the name is short");
            section.records.iter().for_each(|record| record.append(&mut out));
            if self.footers != Some(false) {
                Item::Footer { id: 1 }.encode(&mut out).expect("it has four bytes");
            }
        }
        out
    }
}

fuzz_target!(|input: Input<'_>| {
    let mut stream = Vec::new();
    encode_file_header(&mut stream);
    encode_configuration("none", &mut stream).expect("the name is short");
    header(SectionKind::Start, 1, IDSTR, 0, 1).encode(&mut stream).expect("the name is short");
    VfioPart::Setup.append(&mut stream);
    VfioPart::EndOfState.append(&mut stream);
    if input.footers != Some(false) {
        Item::Footer { id: 1 }.encode(&mut stream).expect("it has four bytes");
    }
    let sections = input.sections();
    if input.is_packaged {
        let package = Command::Packaged { length: sections.len() as u32 };
        Item::Command(package).encode(&mut stream).expect("it has four bytes");
    }
    stream.extend_from_slice(&sections);
    if input.is_whole {
        Item::EndOfStream.encode(&mut stream).expect("it has one byte");
        Item::Vmdesc { length: 2 }.encode(&mut stream).expect("it has four bytes");
        stream.extend_from_slice(b"{}");
    }
    stream.extend_from_slice(input.rest);

    let vmdesc = input.described_bytes.map(|bytes| {
        let json = format!(
            r#"{{"devices":[{{"name":"{IDSTR}","instance_id":0,"fields":[{{"name":"data","type":"buffer","size":{bytes}}}]}}]}}"#
        );
        Vmdesc::parse(json.as_bytes(), &VmdescLimits::DEFAULT).expect("it is a vmdesc")
    });
    let options = MainOptions {
        limits: LIMITS,
        vmdesc,
        footers: match input.footers {
            None => Footers::Detect,
            Some(true) => Footers::Present,
            Some(false) => Footers::Absent,
        },
        ..MainOptions::default()
    };
    let outcome = main_stream(&options, &stream, input.seed);
    assert!(outcome.records.len() >= 4, "what stands in front is well-formed: {outcome:?}");
});
