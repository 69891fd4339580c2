// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! RAM sections of QEMU's main stream, in every layout: arbitrary records, and arbitrary bytes behind them.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stream_codec::qemu::{Footers, Item, MainOptions, SectionKind, encode_configuration, encode_file_header};
use stream_codec_fuzz::check::{LIMITS, main_stream};
use stream_codec_fuzz::parts::{MainPart, RamPart, header};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    seed: u64,
    page_bits: u8,
    ignore_shared: bool,
    mapped_ram: bool,
    has_page_size: bool,
    has_footers: bool,
    file_offset: u8,
    /// The records of each section.
    sections: Vec<Vec<RamPart<'a>>>,
    /// Bytes behind the sections, as they are.
    rest: &'a [u8],
}

fuzz_target!(|input: Input<'_>| {
    let mut stream = Vec::new();
    encode_file_header(&mut stream);
    encode_configuration("none", &mut stream).expect("the name is short");
    let page_bits = 10 + input.page_bits % 4;
    MainPart::PageBits(page_bits).append(&mut stream);
    let (ignore_shared, mapped_ram) = (input.ignore_shared, input.mapped_ram);
    MainPart::WellKnownCapabilities { ignore_shared, mapped_ram }.append(&mut stream);
    for (number, records) in input.sections.iter().enumerate() {
        let kind = if number == 0 { SectionKind::Start } else { SectionKind::Part };
        header(kind, 1, "ram", 0, 4).encode(&mut stream).expect("the name is short");
        records.iter().for_each(|record| record.append(&mut stream));
        RamPart::EndOfSection.append(&mut stream);
        if input.has_footers {
            Item::Footer { id: 1 }.encode(&mut stream).expect("it has four bytes");
        }
    }
    stream.extend_from_slice(input.rest);

    let options = MainOptions {
        limits: LIMITS,
        footers: if input.has_footers { Footers::Present } else { Footers::Absent },
        blocks_with_page_size: if input.has_page_size { vec!["pc.rom".into()] } else { Vec::new() },
        file_offset: input.file_offset.into(),
        ..MainOptions::default()
    };
    let outcome = main_stream(&options, &stream, input.seed);
    for record in outcome.records.iter().filter(|record| record.what == "page") {
        let page_bytes = 1 << page_bits;
        assert!(record.length.is_some_and(|length| length <= page_bytes), "{record:?}");
    }
});
